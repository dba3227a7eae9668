//! The slots of the replica, which requests take and dispatchers claim. The decisions are in [`Grants`]. This file has the
//! lock around them, and tells dispatchers what is granted to them.

pub mod channel;

use admission::claim::Claim;
use admission::grants::{Backlog, Grants, Others};
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use service::headers::text;
use service::slot_channel::{FromDispatcher, FromReplica, SlotClaim, SlotEvent};
use service::wire::{RequestError, header};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The most dispatchers whose claims the replica keeps. More dispatchers send their requests without claims.
const MAX_CHANNELS: usize = 256;

/// The name of a dispatcher: a random number, which is a new one after each start. Clients that send no name share one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DispatcherId(u64);

impl DispatcherId {
    /// The name in the headers of a request; `None` if they have none.
    ///
    /// # Errors
    /// If the header is malformed (status 400).
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, RequestError> {
        let name = text(headers, &header::DISPATCHER_ID)?;
        name.map(|name| {
            let is_hexadecimal = name.len() <= 16 && name.bytes().all(|digit| digit.is_ascii_hexdigit());
            let number = is_hexadecimal.then(|| u64::from_str_radix(name, 16).ok()).flatten();
            number.map(Self).ok_or_else(|| {
                let message = format!("{} must have 1 to 16 hexadecimal digits", header::DISPATCHER_ID);
                RequestError::new(service::wire::Code::BadRequest, message)
            })
        })
        .transpose()
    }
}

/// The client of a request, as far as its slots are concerned.
#[derive(Debug, Clone, Copy, Default)]
pub struct SlotClient {
    /// The dispatcher; `None` if the client is none.
    pub dispatcher: Option<DispatcherId>,
    /// Whether the request uses a slot that was granted to the dispatcher.
    pub uses_grant: bool,
}

impl SlotClient {
    /// The client of the request with these headers. One with a malformed name has no name: it is served like any client,
    /// and claims no slots.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let dispatcher = DispatcherId::from_headers(headers).ok().flatten();
        Self { dispatcher, uses_grant: headers.contains_key(header::SLOT_GRANTED) }
    }
}

/// The slots. All clones share the same ones.
#[derive(Debug, Clone)]
pub struct Slots(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    grants: Grants<DispatcherId>,
    /// The channels to the dispatchers that claim slots. Each holds a few messages: the reply to one message of the
    /// dispatcher, whose next one is read after that, and one for each slot.
    channels: HashMap<DispatcherId, Sender>,
    /// The number of channels that were ever opened.
    opened: u64,
}

/// The replica's end of a channel.
#[derive(Debug)]
struct Sender {
    /// The number of the channel in the order in which channels were opened.
    number: u64,
    messages: mpsc::UnboundedSender<FromReplica>,
}

impl State {
    /// Tells dispatchers that slots have become free for them.
    fn announce(&self, granted: impl IntoIterator<Item = DispatcherId>) {
        granted.into_iter().for_each(|dispatcher| self.tell(dispatcher, SlotEvent::Freed));
    }

    fn tell(&self, dispatcher: DispatcherId, event: SlotEvent) {
        let Some(channel) = self.channels.get(&dispatcher) else { return };
        let Others { taken, claim } = self.grants.others(dispatcher);
        // A channel that has just ended gives its grants back.
        let _ended = channel.messages.send(FromReplica { others: number(taken), claimed: claim, event });
    }
}

/// The headers by which an answer tells `client` about the slots: how many there are, how many are taken, and
/// what other dispatchers take and claim if the client is a dispatcher.
pub fn add_headers(headers: &mut HeaderMap, slots: &Slots, client: SlotClient) {
    for (name, number) in [(header::CAPACITY, slots.capacity()), (header::SLOTS_TAKEN, slots.taken())] {
        headers.insert(name, HeaderValue::from(number));
    }
    if let Some(dispatcher) = client.dispatcher {
        let others = slots.others(dispatcher);
        headers.insert(header::SLOTS_OF_OTHERS, HeaderValue::from(others.taken));
        if others.claim {
            headers.insert(header::SLOTS_CLAIMED, HeaderValue::from(1));
        }
    }
}

impl Slots {
    /// `capacity` free slots.
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Mutex::new(State { grants: Grants::new(capacity), channels: HashMap::new(), opened: 0 })))
    }

    /// Takes `count` slots for a request of `client`; `None` if fewer are free.
    pub fn take(&self, client: SlotClient, count: usize) -> Option<TakenSlots> {
        let dispatcher = client.dispatcher.unwrap_or_default();
        let is_taken = self.lock().grants.take(dispatcher, count, client.uses_grant);
        is_taken.then(|| TakenSlots { slots: self.clone(), dispatcher, count })
    }

    /// Frees the slot that was granted to `client` for a request which is refused before it takes a slot.
    pub fn forgo(&self, client: SlotClient) {
        if client.uses_grant {
            drop(self.take(client, 1));
        }
    }

    /// The number of slots.
    pub fn capacity(&self) -> usize {
        self.lock().grants.slots()
    }

    /// The number of slots that requests take.
    pub fn taken(&self) -> usize {
        self.lock().grants.held()
    }

    /// The other dispatchers and clients, as far as they concern `dispatcher`.
    pub fn others(&self, dispatcher: DispatcherId) -> Others {
        self.lock().grants.others(dispatcher)
    }

    /// Opens the channel on which `dispatcher` learns of its grants; `None` if too many dispatchers have one. It replaces an
    /// earlier one of the same dispatcher, whose connection may have broken without a sign.
    pub fn open_channel(&self, dispatcher: DispatcherId) -> Option<SlotChannel> {
        let mut state = self.lock();
        if state.channels.remove(&dispatcher).is_some() {
            let granted = state.grants.leave(dispatcher, Instant::now());
            state.announce(granted);
        }
        if state.channels.len() >= MAX_CHANNELS {
            return None;
        }
        state.opened += 1;
        let number = state.opened;
        let (sender, messages) = mpsc::unbounded_channel();
        state.channels.insert(dispatcher, Sender { number, messages: sender });
        drop(state);
        Some(SlotChannel { slots: self.clone(), dispatcher, number, messages })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is used all the same: no change leaves the state inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Slots that a request has taken. They are free again when this value is dropped.
#[derive(Debug)]
pub struct TakenSlots {
    slots: Slots,
    dispatcher: DispatcherId,
    count: usize,
}

impl TakenSlots {
    /// Takes `count` further slots for the same request. Returns false if fewer are free.
    pub fn take_more(&mut self, count: usize) -> bool {
        let is_taken = self.slots.lock().grants.take(self.dispatcher, count, false);
        self.count += if is_taken { count } else { 0 };
        is_taken
    }

    /// Splits one slot off; `None` if there is none.
    pub fn split_one(&mut self) -> Option<Self> {
        self.count = self.count.checked_sub(1)?;
        Some(Self { slots: self.slots.clone(), dispatcher: self.dispatcher, count: 1 })
    }
}

impl Drop for TakenSlots {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        for _ in 0..self.count {
            let granted = state.grants.release(self.dispatcher, Instant::now());
            state.announce(granted);
        }
    }
}

/// The replica's end of the channel to a dispatcher. When it is dropped, the dispatcher's claim and grants end.
#[derive(Debug)]
pub struct SlotChannel {
    slots: Slots,
    dispatcher: DispatcherId,
    number: u64,
    messages: mpsc::UnboundedReceiver<FromReplica>,
}

impl SlotChannel {
    /// The next message to the dispatcher; `None` once another channel of the dispatcher has replaced this one.
    pub async fn next_message(&mut self) -> Option<FromReplica> {
        self.messages.recv().await
    }

    /// Handles a message of the dispatcher.
    pub fn handle(&self, message: FromDispatcher) {
        let (mut state, now, dispatcher) = (self.slots.lock(), Instant::now(), self.dispatcher);
        if !self.is_current(&state) {
            return;
        }
        match message {
            FromDispatcher::Ask(asked) => {
                let is_granted = state.grants.ask(dispatcher, claim(asked), now);
                state.tell(dispatcher, if is_granted { SlotEvent::Granted } else { SlotEvent::Queued });
                // Slots are free only while there is no claim, but a claim of several slots may get several.
                let granted = state.grants.offer_all(now);
                state.announce(granted);
            }
            FromDispatcher::Claim(changed) => {
                let granted = state.grants.claim(dispatcher, claim(changed), now);
                state.announce(granted);
            }
            FromDispatcher::Return => {
                let granted = state.grants.give_back(dispatcher, now);
                state.announce(granted);
            }
            FromDispatcher::Backlog { punctual, late } => {
                let backlog = Backlog { punctual: punctual as usize, late: late as usize };
                for (told, Backlog { punctual, late }) in state.grants.tell(dispatcher, backlog, now) {
                    state.tell(told, SlotEvent::Backlog { punctual: number(punctual), late: number(late) });
                }
            }
        }
    }

    fn is_current(&self, state: &State) -> bool {
        state.channels.get(&self.dispatcher).is_some_and(|channel| channel.number == self.number)
    }

    /// Ends the grants that the dispatcher has not used in time.
    pub fn end_leases(&self) {
        let mut state = self.slots.lock();
        if self.is_current(&state)
            && let Some(granted) = state.grants.end_leases(self.dispatcher, Instant::now())
        {
            state.tell(self.dispatcher, SlotEvent::Forgotten);
            state.announce(granted);
        }
    }

    /// The time until the first grant ends that the dispatcher has not used; `None` without such a grant.
    pub fn next_end(&self) -> Option<Duration> {
        let end = self.slots.lock().grants.next_end(self.dispatcher)?;
        Some(end.saturating_duration_since(Instant::now()))
    }
}

impl Drop for SlotChannel {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        if !self.is_current(&state) {
            return;
        }
        state.channels.remove(&self.dispatcher);
        let granted = state.grants.leave(self.dispatcher, Instant::now());
        state.announce(granted);
    }
}

fn claim(claim: SlotClaim) -> Claim {
    Claim {
        slots: claim.slots as usize,
        waiting: claim.waiting as usize,
        waited: Duration::from_micros(claim.waited_us),
        late_after: claim.late_after_us.map(Duration::from_micros),
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(dispatcher: u64) -> SlotClient {
        SlotClient { dispatcher: Some(DispatcherId(dispatcher)), uses_grant: false }
    }

    fn ask(slots: u32) -> FromDispatcher {
        FromDispatcher::Ask(SlotClaim { slots, waiting: slots, waited_us: 0, late_after_us: Some(400_000) })
    }

    fn next(channel: &mut SlotChannel) -> Option<FromReplica> {
        channel.messages.try_recv().ok()
    }

    #[test]
    fn a_slot_that_becomes_free_is_kept_for_the_dispatcher_that_claims_it() {
        let slots = Slots::new(1);
        let taken = slots.take(client(1), 1).expect("a free slot");
        assert!(slots.take(SlotClient::default(), 1).is_none() && slots.open_channel(DispatcherId(2)).is_some());
        let mut channel = slots.open_channel(DispatcherId(2)).expect("the last one has ended");
        channel.handle(ask(1));
        let message = |event, others| Some(FromReplica { others, claimed: false, event });
        assert_eq!(next(&mut channel), message(SlotEvent::Queued, 1));
        assert!(slots.others(DispatcherId(1)).claim);
        drop(taken);
        assert_eq!(next(&mut channel), message(SlotEvent::Freed, 0));
        assert!(slots.take(client(1), 1).is_none());
        let granted = SlotClient { uses_grant: true, ..client(2) };
        assert!(slots.take(granted, 1).is_some());
        assert_eq!((slots.taken(), next(&mut channel)), (0, None));
    }

    #[test]
    fn the_end_of_a_channel_gives_its_grants_to_others() {
        let slots = Slots::new(1);
        let mut second = slots.open_channel(DispatcherId(2)).expect("few channels");
        let first = slots.open_channel(DispatcherId(1)).expect("few channels");
        first.handle(ask(1));
        second.handle(ask(1));
        assert_eq!(next(&mut second).map(|message| message.event), Some(SlotEvent::Queued));
        drop(first);
        assert_eq!(next(&mut second).map(|message| message.event), Some(SlotEvent::Freed));
        drop(second);
        assert_eq!(slots.take(client(3), 1).map(|taken| taken.count), Some(1));
    }

    #[test]
    fn a_new_channel_replaces_the_one_before() {
        let slots = Slots::new(1);
        let mut broken = slots.open_channel(DispatcherId(1)).expect("few channels");
        broken.handle(ask(1));
        let mut next_one = slots.open_channel(DispatcherId(1)).expect("few channels");
        assert_eq!(slots.others(DispatcherId(2)), Others::default(), "the grant of the broken one is over");
        next_one.handle(ask(1));
        broken.handle(FromDispatcher::Return);
        assert_eq!(next(&mut broken).map(|message| message.event), Some(SlotEvent::Granted));
        assert!(matches!(broken.messages.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        drop(broken);
        assert_eq!(next(&mut next_one).map(|message| message.event), Some(SlotEvent::Granted));
        assert_eq!(slots.others(DispatcherId(2)).taken, 1, "the grant of the new one lasts");
    }

    #[test]
    fn the_slots_of_a_request_are_split_and_freed_one_by_one() {
        let slots = Slots::new(4);
        let mut taken = slots.take(client(1), 1).expect("free slots");
        assert!(taken.take_more(2) && !taken.take_more(2));
        let one = taken.split_one().expect("three slots");
        drop(taken);
        assert_eq!(slots.taken(), 1);
        drop(one);
        assert_eq!(slots.taken(), 0);
    }

    #[test]
    fn only_so_many_dispatchers_have_a_channel() {
        let slots = Slots::new(1);
        let open: Vec<_> = (0..MAX_CHANNELS as u64).filter_map(|id| slots.open_channel(DispatcherId(id))).collect();
        assert_eq!(open.len(), MAX_CHANNELS);
        assert!(slots.open_channel(DispatcherId(u64::MAX)).is_none());
        drop(open);
        assert!(slots.open_channel(DispatcherId(u64::MAX)).is_some());
    }

    #[test]
    fn the_name_of_a_dispatcher_is_a_hexadecimal_number() {
        for (value, expected) in [
            (Some("2a"), Ok(Some(DispatcherId(42)))),
            (Some("ffffffffffffffff"), Ok(Some(DispatcherId(u64::MAX)))),
            (None, Ok(None)),
            (Some("10000000000000000"), Err(400)),
            (Some("+1"), Err(400)),
            (Some("0x1"), Err(400)),
            (Some(""), Err(400)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::DISPATCHER_ID, value.parse().expect("a header value"));
            }
            let found = DispatcherId::from_headers(&headers).map_err(|fault| fault.code.status());
            assert_eq!(found, expected, "{value:?}");
        }
    }
}
