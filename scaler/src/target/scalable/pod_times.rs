//! How long pods take to get a node and to start, and which pods are lost. Pure, but for lines of the log.

use super::pods::{PodState, condition, pod_state};
use super::room::{Outlook, Outlooks, is_nominated};
use crate::target::startup_mean;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use limits::placement::{self, Placements};
use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Largest time between a pod's start and its first conditions, as the kubelet writes them in whole seconds.
const SLACK: Duration = Duration::from_secs(1);

/// The least time after which a pod that was ready once and is unready now is lost. Before that, its container may just
/// have restarted.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// The most by which the watch of pods lags behind, so that a pod is older than the scaler has seen.
const WATCH_LAG: Duration = Duration::from_secs(5);

/// The time in which an autoscaler tells what it does for a pod without a node. cluster-autoscaler looks for such pods
/// every ten seconds, and Karpenter sooner. Until then, such a pod is no sign that the cluster is full.
const ANSWER_TIME: Duration = Duration::from_secs(15);

/// The longest start that is believed of a pod that was ready when it was first seen. A later readiness is rather that
/// after a restart of its container. Also the longest age of a pod that was present when pods were first seen.
const LONGEST_EARLIER: Duration = Duration::from_secs(10 * 60);

/// The mean start-up time, the latest placements, and the pods that are present.
#[derive(Debug)]
pub struct PodTimes {
    startup: Option<Duration>,
    /// The mean of the times from placement to readiness.
    start: Option<Duration>,
    /// The shortest start of the pods that were ready when they were first seen, without their wait for a node and
    /// without what came before a restart.
    earlier: Option<Duration>,
    placements: Placements,
    /// Whether room may be made for pods without a node. False after a pod for which none was made: the next ones are a
    /// sign at once that the cluster is full.
    may_make_room: bool,
    /// The longest wait so far of the pods for which a node is coming; `None` if there are none.
    awaited: Option<Duration>,
    /// The time in which unplaced pods may get a node; `None` if there are none.
    time_limit: Option<Duration>,
    /// The time of the last call of [`Self::note`].
    noted: Option<Instant>,
    /// By the uid of each pod.
    pods: BTreeMap<String, Seen>,
}

/// What was seen of a pod.
#[derive(Debug, Clone, Copy)]
struct Seen {
    state: PodState,
    /// The time at which the pod was first seen.
    first: Instant,
    /// The longest time for which the pod may have existed before that.
    unseen: Duration,
    /// The time at which the pod was first seen in this state.
    since: Instant,
    /// Whether the pod has been ready, or was when it was first seen.
    was_ready: bool,
    was_stuck: bool,
    /// Whether the scheduler has made room for the pod on a node that was there already, such as the room of a placeholder.
    /// Its wait of a second or two says nothing about the time that a node takes.
    was_nominated: bool,
}

impl Seen {
    /// The longest time for which the pod may have existed, by the scaler's own clock. The clocks of nodes may be wrong
    /// by hours.
    fn longest_age(&self, now: Instant) -> Duration {
        self.unseen + (now - self.first) + WATCH_LAG
    }
}

impl Default for PodTimes {
    fn default() -> Self {
        Self {
            startup: None,
            start: None,
            earlier: None,
            placements: Placements::default(),
            may_make_room: true,
            awaited: None,
            time_limit: None,
            noted: None,
            pods: BTreeMap::new(),
        }
    }
}

impl PodTimes {
    /// The mean of the times from creation to readiness. Until a pod has become ready, the shortest time from placement
    /// to readiness of the pods that were ready before. The condition of a pod that was unready in between has a later
    /// time, so the mean of these would be too long. A wait for a node does not count there: the only pod may be the
    /// one that waited for room in a full cluster, and the next replica would be added late for it. `None` if no pod is
    /// or was ready.
    ///
    /// While pods wait for a node that is coming, the next replica waits, too. The time is then at least that which nodes
    /// have taken lately, or for which the present pods have waited, and a start.
    pub fn startup(&self) -> Option<Duration> {
        let usual = self.startup.or(self.earlier);
        let with_node = self.awaited.map(|waited| {
            let placement = self.placements.mean().unwrap_or_default().max(waited);
            placement + self.start.or(self.earlier).unwrap_or_default()
        });
        usual.max(with_node)
    }

    /// The mean time that pods took lately to get a node if none had room for them; `None` until one was measured.
    pub fn node_time(&self) -> Option<Duration> {
        self.placements.mean()
    }

    /// The time in which unplaced pods may get a node; `None` if there are no such pods.
    pub fn placement(&self) -> Option<Duration> {
        self.time_limit
    }

    /// Learns from the present pods, and returns their states. `outlooks` are those of the pods that wait for a node.
    ///
    /// The start-up times of pods that have become ready since the last call are added to the mean. The time that a pod
    /// waits for a node is part of it. A pod that was stuck, was ready when it was first seen, or becomes ready again
    /// does not count.
    pub fn note(&mut self, pods: &[impl Borrow<Pod>], outlooks: &Outlooks, now: Instant) -> Vec<PodState> {
        let before = std::mem::take(&mut self.pods);
        (self.awaited, self.time_limit) = (None, None);
        let mut all = Vec::new();
        for pod in pods.iter().map(Borrow::borrow) {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let seen = self.see(pod, before.get(&uid), now);
            all.push((pod, seen));
            self.pods.insert(uid, seen);
        }
        // All pods are looked at first, so that their order does not matter.
        self.learn_room(&all, outlooks, now);
        let states = all.iter().map(|(pod, seen)| match seen.state {
            PodState::Unplaced => self.wait(seen, outlooks.of(pod), outlooks.are_told, now),
            _ if self.is_lost(seen, now) => PodState::Lost,
            state => state,
        });
        let states = states.collect();
        self.noted = Some(now);
        for (uid, then) in before {
            let state = self.pods.get(&uid).map_or(PodState::Gone, |seen| seen.state);
            if (then.state, state) == (PodState::Unplaced, PodState::Gone) && !then.was_nominated {
                self.placements.add_withdrawn(now - then.since);
            }
        }
        states
    }

    /// Learns from one pod. `before` is what was seen of it at the last call.
    fn see(&mut self, pod: &Pod, before: Option<&Seen>, now: Instant) -> Seen {
        let state = pod_state(pod);
        let is_ready = state == PodState::Ready;
        let was_ready = is_ready || was_ready(pod);
        let unseen = self.noted.map_or(LONGEST_EARLIER, |noted| now - noted);
        let was_nominated = is_nominated(pod);
        let first = Seen { state, first: now, unseen, since: now, was_ready, was_stuck: false, was_nominated };
        if before.is_none() && is_ready {
            let start = took_after_placement(pod).filter(|took| *took <= LONGEST_EARLIER);
            self.earlier = self.earlier.into_iter().chain(start).min();
        }
        let before = *before.unwrap_or(&first);
        if is_ready && !before.was_ready && !before.was_stuck {
            self.add_startup(pod, before.longest_age(now));
        }
        let was_nominated = was_nominated || before.was_nominated;
        let is_placed = before.state == PodState::Unplaced && !matches!(state, PodState::Unplaced | PodState::Gone);
        if is_placed && !was_nominated {
            self.add_placement(pod, before.longest_age(now));
        }
        Seen {
            state,
            first: before.first,
            unseen: before.unseen,
            since: if state == before.state { before.since } else { now },
            was_ready: before.was_ready || is_ready,
            was_stuck: before.was_stuck || state == PodState::Stuck,
            was_nominated,
        }
    }

    /// Learns from the pods that wait for a node whether nodes are added. A nominated pod says nothing about that: its room
    /// is on a node that is there.
    fn learn_room(&mut self, pods: &[(&Pod, Seen)], outlooks: &Outlooks, now: Instant) {
        let waiting = pods.iter().filter(|(_, seen)| seen.state == PodState::Unplaced && !seen.was_nominated);
        let outlooks: Vec<_> = waiting.map(|(pod, seen)| (outlooks.of(pod), now - seen.since)).collect();
        let any = |test: fn(&(Option<Outlook>, Duration)) -> bool| outlooks.iter().any(test);
        if any(|(outlook, _)| matches!(outlook, Some(Outlook::Coming(_)))) {
            self.may_make_room = true;
        } else if any(|(outlook, waited)| match outlook {
            Some(_) => true,
            None => *waited >= ANSWER_TIME,
        }) {
            self.may_make_room = false;
        }
    }

    /// The state of a pod that waits for a node. `are_told` is whether an autoscaler would have told its outlook.
    fn wait(&mut self, seen: &Seen, outlook: Option<Outlook>, are_told: bool, now: Instant) -> PodState {
        let waited = now - seen.since;
        let (is_awaited, limit) = match outlook {
            Some(Outlook::Coming(_)) => (waited < self.placements.promised_time_limit(), placement::REFUSED),
            Some(Outlook::Refused(_)) => (false, placement::REFUSED),
            None => (are_told && self.may_make_room, self.placements.time_limit()),
        };
        if is_awaited {
            // The next replica need not wait for a node as long as there is room that can be made.
            self.awaited = self.awaited.max((!seen.was_nominated).then_some(waited));
            return PodState::Awaited;
        }
        self.time_limit = self.time_limit.max(Some(limit));
        PodState::Unplaced
    }

    /// Whether a pod that was ready is unready for longer than a start.
    fn is_lost(&self, seen: &Seen, now: Instant) -> bool {
        let longest = self.startup().unwrap_or_default().max(LOST_AFTER);
        seen.state == PodState::Starting && seen.was_ready && now - seen.since > longest
    }

    fn add_startup(&mut self, pod: &Pod, longest: Duration) {
        if let Some(took) = took(pod, "Ready").map(|took| took.min(longest)) {
            self.startup = Some(startup_mean(self.startup, took));
            let start = took_after_placement(pod).map(|start| start.min(took));
            self.start = start.map(|start| startup_mean(self.start, start)).or(self.start);
            tracing::info!(pod = pod.metadata.name, startup_seconds = took.as_secs(), "a replica became ready");
        }
    }

    fn add_placement(&mut self, pod: &Pod, longest: Duration) {
        if let Some(took) = took(pod, "PodScheduled").map(|took| took.min(longest)) {
            self.placements.add(took);
            self.may_make_room = true;
            tracing::info!(pod = pod.metadata.name, seconds = took.as_secs(), "a replica that waited has got a node");
        }
    }
}

/// The time from a pod's creation to the last change of its condition with the type `kind`.
fn took(pod: &Pod, kind: &str) -> Option<Duration> {
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    let changed = condition(pod, kind)?.last_transition_time.as_ref()?.0;
    changed.duration_since(created).try_into().ok()
}

/// The time from a pod's placement on a node to its readiness; from its creation, if the placement is unknown. If a
/// container was restarted, from the last start of its containers: the readiness is that after the restart.
fn took_after_placement(pod: &Pod) -> Option<Duration> {
    let ready = took(pod, "Ready")?;
    let created = pod.metadata.creation_timestamp.as_ref()?.0;
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let placed = match containers.iter().any(|container| container.restart_count > 0) {
        false => took(pod, "PodScheduled"),
        true => {
            let running = |container: &ContainerStatus| container.state.as_ref()?.running.as_ref()?.started_at.clone();
            let started = containers.iter().filter_map(running).max()?;
            started.0.duration_since(created).try_into().ok()
        }
    };
    Some(ready.saturating_sub(placed.unwrap_or_default()))
}

/// Whether a starting pod was ready before: its readiness changed more than [`SLACK`] after its start.
fn was_ready(pod: &Pod) -> bool {
    let since = condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(since), Some(started)) = (since, started) else { return false };
    Duration::try_from(since.0.duration_since(started.0)).is_ok_and(|unready_after| unready_after > SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn time(second: u64) -> String {
        format!("2026-01-01T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
    }

    /// A pod that was created and started at second 0.
    fn with(uid: &str, conditions: &Value) -> Pod {
        let metadata = json!({"uid": uid, "creationTimestamp": time(0)});
        let status = json!({"startTime": time(0), "conditions": conditions});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).expect("a pod")
    }

    /// A pod whose condition `Ready` has been `ready` since `second`.
    fn pod(uid: &str, ready: &str, second: u64) -> Pod {
        with(uid, &json!([{"type": "Ready", "status": ready, "lastTransitionTime": time(second)}]))
    }

    fn unplaced(uid: &str) -> Pod {
        with(uid, &json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]))
    }

    /// A pod that got a node at `second`.
    fn placed(uid: &str, second: u64) -> Pod {
        with(uid, &json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": time(second)}]))
    }

    /// A pod that got a node at `second`, and was ready at `ready`.
    fn placed_and_ready(uid: &str, second: u64, ready: u64) -> Pod {
        with(
            uid,
            &json!([
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": time(second)},
                {"type": "Ready", "status": "True", "lastTransitionTime": time(ready)}
            ]),
        )
    }

    /// A pod whose container was started again at `started`, and was ready at `ready`.
    fn restarted(uid: &str, started: u64, ready: u64) -> Pod {
        let mut pod = placed_and_ready(uid, 0, ready);
        let running = json!([{"name": "replica", "image": "", "imageID": "", "ready": true, "restartCount": 1,
            "state": {"running": {"startedAt": time(started)}}}]);
        let status = pod.status.as_mut().expect("the pod has a status");
        status.container_statuses = serde_json::from_value(running).expect("the JSON is a list of statuses");
        pod
    }

    /// A pod whose image cannot be pulled.
    fn stuck() -> Pod {
        let mut pod = pod("a", "False", 0);
        let waiting = json!([{"name": "replica", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ErrImagePull"}}}]);
        let status = pod.status.as_mut().expect("the pod has a status");
        status.container_statuses = serde_json::from_value(waiting).expect("the JSON is a list of statuses");
        pod
    }

    #[test]
    fn only_pods_that_are_seen_to_become_ready_for_the_first_time_count() {
        let starting = || vec![pod("a", "False", 0)];
        let ready = || vec![pod("a", "True", 9)];
        let (unready, again) = (|| vec![pod("a", "False", 30)], || vec![pod("a", "True", 40)]);
        let two = |b_ready: &str| vec![pod("a", "True", 10), pod("b", b_ready, if b_ready == "True" { 20 } else { 0 })];
        for (seen, seconds) in [
            // Pods that were ready before count until one is seen to start.
            (vec![ready()], Some(9.0)),
            (vec![vec![pod("a", "True", 30), pod("b", "True", 8)]], Some(8.0)),
            (
                vec![vec![pod("a", "True", 30)], vec![pod("a", "True", 30), pod("b", "False", 0)], two("True")],
                Some(20.0),
            ),
            // The wait for a node of a pod that was ready before does not count.
            (vec![vec![placed_and_ready("a", 38, 41)]], Some(3.0)),
            (vec![vec![placed_and_ready("a", 0, 9), placed_and_ready("b", 700, 704)]], Some(4.0)),
            // Nor does what came before the last start of its container.
            (vec![vec![restarted("a", 55, 60)]], Some(5.0)),
            (vec![vec![pod("a", "True", 900)]], None),
            (vec![starting()], None),
            (vec![starting(), ready()], Some(9.0)),
            (vec![vec![], ready()], Some(9.0)),
            (vec![starting(), vec![stuck()], starting(), ready()], None),
            // A pod waits for a node, and starts there. Its start-up time is all of that.
            (vec![vec![unplaced("a")], starting(), vec![pod("a", "True", 99)]], Some(99.0)),
            (vec![starting(), vec![unplaced("a")], starting(), again()], Some(40.0)),
            (vec![unready(), again()], None),
            (vec![starting(), ready(), unready(), again()], Some(9.0)),
            // The mean is 0.7 · 10 s + 0.3 · 20 s.
            (vec![vec![pod("a", "False", 0), pod("b", "False", 0)], two("False"), two("True")], Some(13.0)),
        ] {
            let mut times = PodTimes::default();
            let start = Instant::now();
            for (step, pods) in (0..).zip(&seen) {
                times.note(pods, &Outlooks::default(), start + S(60 * step));
            }
            assert_eq!(times.startup().map(|mean| mean.as_secs_f64()), seconds, "{seen:?}");
        }
    }

    #[test]
    fn a_start_takes_no_longer_than_the_scaler_has_waited_for_it() {
        let start = Instant::now();
        // The clock of the pod's node is an hour ahead.
        let ahead = || vec![pod("a", "True", 3600)];
        let new = || vec![pod("a", "False", 0)];
        for (seen, seconds) in [
            (vec![(0, vec![]), (1, new()), (9, ahead())], 1 + 8 + 5),
            // The API server did not answer for 40 s.
            (vec![(0, vec![]), (40, new()), (48, ahead())], 40 + 8 + 5),
            // The pod was there before the scaler.
            (vec![(0, new()), (8, ahead())], 600 + 8 + 5),
        ] {
            let mut times = PodTimes::default();
            for (second, pods) in &seen {
                times.note(pods, &Outlooks::default(), start + S(*second));
            }
            assert_eq!(times.startup(), Some(S(seconds)), "{seen:?}");
        }
    }

    #[test]
    fn the_start_up_time_of_pods_that_are_created_one_after_the_other_is_that_of_one_pod() {
        let (mut times, start) = (PodTimes::default(), Instant::now());
        // Twenty pods are created and placed in each of 50 seconds, and each is ready 3 s after that.
        for second in 0..60 {
            let pods: Vec<Pod> = (0..1000)
                .filter(|number| number / 20 <= second)
                .map(|number| {
                    let (created, is_ready) = (number / 20, number / 20 + 3 <= second);
                    let (ready, since) = if is_ready { ("True", created + 3) } else { ("False", created) };
                    let placed = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": time(created)});
                    let ready = json!({"type": "Ready", "status": ready, "lastTransitionTime": time(since)});
                    let mut pod = with(&number.to_string(), &json!([placed, ready]));
                    let created = serde_json::from_value(json!(time(created))).expect("a time");
                    pod.metadata.creation_timestamp = Some(created);
                    pod
                })
                .collect();
            let states = times.note(&pods, &Outlooks::default(), start + S(second));
            assert!(states.iter().all(|state| matches!(state, PodState::Starting | PodState::Ready)), "at {second} s");
            assert_eq!(times.startup(), (second >= 3).then_some(S(3)), "at {second} s");
            assert_eq!((times.node_time(), times.placement()), (None, None), "at {second} s");
        }
    }

    #[test]
    fn placements_are_learned_from_pods_that_had_to_wait_for_a_node() {
        let (mut times, start) = (PodTimes::default(), Instant::now());
        // The second at which pods are seen, the pods, and the seconds in which unplaced ones may get a node.
        for (second, pods, seconds) in [
            (0, vec![placed("quick", 0)], None),
            (0, vec![unplaced("a")], Some(300)),
            (41, vec![placed("a", 40), unplaced("b")], Some(60)),
            // The pod is withdrawn while it still waits.
            (141, vec![], None),
            (141, vec![unplaced("c")], Some(150)),
        ] {
            times.note(&pods, &Outlooks::default(), start + S(second));
            assert_eq!(times.placement(), seconds.map(S), "at {second} s");
        }
    }

    #[test]
    fn a_pod_that_is_unready_again_for_longer_than_a_start_is_lost() {
        let start = Instant::now();
        for (startup, lost_at) in [(4, 31), (40, 41)] {
            let mut times = PodTimes::default();
            times.note(&[pod("a", "False", 0), pod("new", "False", 0)], &Outlooks::default(), start);
            times.note(&[pod("a", "True", startup), pod("new", "False", 0)], &Outlooks::default(), start);
            for (second, expected) in
                [(0, PodState::Starting), (lost_at - 1, PodState::Starting), (lost_at, PodState::Lost)]
            {
                let states = times.note(
                    &[pod("a", "False", 60), pod("new", "False", 0)],
                    &Outlooks::default(),
                    start + S(second),
                );
                assert_eq!(states, [expected, PodState::Starting], "{second} s with a start-up time of {startup} s");
            }
            assert_eq!(times.note(&[pod("a", "True", 99)], &Outlooks::default(), start + S(99)), [PodState::Ready]);
        }
    }

    #[test]
    fn a_pod_waits_for_a_node_that_is_coming_as_long_as_nodes_may_take() {
        let told = |outlook: Option<Outlook>| Outlooks { are_told: true, of_pods: [("a".into(), outlook)].into() };
        let coming = told(Some(Outlook::Coming(String::new())));
        let refused = told(Some(Outlook::Refused(String::new())));
        let (mut times, start) = (PodTimes::default(), Instant::now());
        times.note(&[placed_and_ready("old", 0, 4)], &refused, start);
        // The second, the outlook, the pod's state, the limit of its wait, and the start-up time of the next replica.
        for (second, outlooks, expected) in [
            (0, &told(None), (PodState::Awaited, None, 4)),
            (14, &told(None), (PodState::Awaited, None, 18)),
            (15, &told(None), (PodState::Unplaced, Some(300), 4)),
            (20, &coming, (PodState::Awaited, None, 24)),
            (299, &coming, (PodState::Awaited, None, 303)),
            (300, &coming, (PodState::Unplaced, Some(10), 4)),
            (301, &refused, (PodState::Unplaced, Some(10), 4)),
            // The scaler may not list Events.
            (302, &Outlooks::default(), (PodState::Unplaced, Some(300), 4)),
        ] {
            let states = times.note(&[unplaced("a"), placed_and_ready("old", 0, 4)], outlooks, start + S(second));
            let (state, limit, startup) = expected;
            let found = (states[0], times.placement(), times.startup());
            assert_eq!(found, (state, limit.map(S), Some(S(startup))), "at {second} s");
        }
        // It gets one in the end, 400 s after its creation. The next one may wait for 600 s.
        times.note(&[placed("a", 400)], &refused, start + S(400));
        for (second, state) in [(0, PodState::Awaited), (599, PodState::Awaited), (600, PodState::Unplaced)] {
            let states = times.note(&[unplaced("b")], &coming, start + S(500 + second));
            assert_eq!(states, [state], "after {second} s");
        }
    }

    #[test]
    fn a_pod_that_takes_the_room_of_a_placeholder_says_nothing_about_nodes() {
        let nominated = |uid: &str| {
            let mut pod = unplaced(uid);
            pod.status.as_mut().expect("the pod has a status").nominated_node_name = Some("n".into());
            pod
        };
        let told = Outlooks { are_told: true, ..Outlooks::default() };
        let (mut times, start) = (PodTimes::default(), Instant::now());
        times.note(&[unplaced("a")], &told, start);
        times.note(&[placed("a", 90)], &told, start + S(90));
        times.note(&[placed_and_ready("a", 90, 95)], &told, start + S(95));
        for replica in 0..10 {
            let name = format!("quick{replica}");
            assert_eq!(times.note(&[nominated(&name)], &told, start + S(100)), [PodState::Awaited]);
            assert_eq!(times.startup(), Some(S(95)), "no node is awaited");
            // The scheduler removes the nomination when it binds the pod.
            times.note(&[placed(&name, 2)], &told, start + S(102));
        }
        let none: [Pod; 0] = [];
        times.note(&[nominated("withdrawn")], &told, start + S(110));
        times.note(&none, &told, start + S(300));
        assert_eq!(times.node_time(), Some(S(90)));
        times.note(&[unplaced("b")], &Outlooks::default(), start + S(300));
        assert_eq!(times.placement(), Some(S(135)), "1.5 times the wait for a node");
    }

    #[test]
    fn the_states_of_waiting_pods_do_not_depend_on_their_order() {
        let coming = || Some(Outlook::Coming(String::new()));
        let refused = || Some(Outlook::Refused(String::new()));
        let (awaited, full) = ([PodState::Awaited; 2], [PodState::Unplaced; 2]);
        // The outlooks of the pods a and b, of which a has waited for 20 s and b is new, and their states.
        for (a, b, expected) in [
            // b fits on the node that is coming for a.
            (coming(), None, awaited),
            (None, coming(), awaited),
            (refused(), None, full),
            (None, None, full),
            (None, refused(), full),
            (refused(), coming(), [PodState::Unplaced, PodState::Awaited]),
        ] {
            for order in [["a", "b"], ["b", "a"]] {
                let outlooks =
                    Outlooks { are_told: true, of_pods: [("a".into(), a.clone()), ("b".into(), b.clone())].into() };
                let (mut times, start) = (PodTimes::default(), Instant::now());
                times.note(&[unplaced("a")], &Outlooks { are_told: true, ..Outlooks::default() }, start);
                let pods = order.map(unplaced);
                let states = times.note(&pods, &outlooks, start + S(20));
                let found = ["a", "b"].map(|uid| states[usize::from(order[1] == uid)]);
                assert_eq!(found, expected, "{a:?}, {b:?} in the order {order:?}");
            }
        }
    }

    #[test]
    fn a_cluster_that_has_made_no_room_is_full_at_once_the_next_time() {
        let told = |outlook: Option<Outlook>| Outlooks { are_told: true, of_pods: [("a".into(), outlook)].into() };
        for (outlook, state) in [
            (None, PodState::Unplaced),
            (Some(Outlook::Refused(String::new())), PodState::Unplaced),
            (Some(Outlook::Coming(String::new())), PodState::Awaited),
        ] {
            let (mut times, start) = (PodTimes::default(), Instant::now());
            for second in [0, 15] {
                times.note(&[unplaced("a")], &told(outlook.clone()), start + S(second));
            }
            let none: [Pod; 0] = [];
            times.note(&none, &told(None), start + S(20));
            assert_eq!(times.note(&[unplaced("b")], &told(None), start + S(30)), [state], "after {outlook:?}");
        }
    }

    #[test]
    fn the_next_replica_is_expected_to_wait_for_a_node_as_long_as_the_last_ones() {
        let coming = Outlooks { are_told: true, of_pods: [("b".into(), Some(Outlook::Coming(String::new())))].into() };
        let (mut times, start) = (PodTimes::default(), Instant::now());
        times.note(&[unplaced("a")], &coming, start);
        times.note(&[placed("a", 90)], &coming, start + S(90));
        times.note(&[placed_and_ready("a", 90, 95)], &coming, start + S(95));
        // Ten replicas find room at once.
        for replica in 0..10 {
            let name = format!("quick{replica}");
            times.note(&[placed(&name, 0)], &coming, start + S(100));
            times.note(&[placed_and_ready(&name, 0, 5)], &coming, start + S(105));
        }
        assert!(times.startup() < Some(S(8)), "{:?}", times.startup());
        times.note(&[unplaced("b")], &coming, start + S(110));
        assert_eq!(times.startup(), Some(S(95)), "90 s for a node, and 5 s for a start");
        times.note(&[unplaced("b")], &coming, start + S(230));
        assert_eq!(times.startup(), Some(S(125)), "the node takes longer this time");
    }
}
