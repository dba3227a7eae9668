//! `bench rotation`: the processor time that the rotation of replicas costs for each request, and that discovery costs
//! for each change, with up to thousands of replicas. Calls the dispatcher's own code in this process, without sockets.

use crate::figure::{self, Figure, TargetRange};
use crate::output::Output;
use crate::progress;
use crate::statistics::median;
use anyhow::{Context, Result};
use dispatcher::discovery::kubernetes::pods::{PodEndpoints, from_slice};
use dispatcher::rotation::{
    Balance, Constraints, EndedAttempt, EndpointChanges, Endpoints, HealthSignal, ProbeAnswer, ReplicaId, Rotation,
    SlotNews,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The numbers of replicas. The first is the one that the others are compared with.
const SIZES: [usize; 4] = [1, 100, 1000, 4000];

/// The slots of each replica. Half of them are in use.
const CAPACITY: usize = 4;

/// The virtual time that a replica takes for a request.
const SERVICE_TIME: Duration = Duration::from_millis(50);

/// The stall timeout of the worker for few replicas.
const STALL_TIMEOUT: Duration = Duration::from_millis(100);

/// Requests in one round.
const REQUESTS: u32 = 200_000;

/// Rounds for each number of replicas. The median counts. Rounds with different numbers take turns, so that a
/// disturbance of the machine affects all.
const ROUNDS: usize = 9;

/// Endpoints in one slice, the most that Kubernetes puts there by default.
const SLICE: usize = 100;

/// Slices of the Service whose changes are measured.
const SLICES: usize = 40;

/// Changes that are measured.
const CHANGES: u32 = 2000;

/// The time between two changes.
const CHANGE_INTERVAL: Duration = Duration::from_millis(50);

/// Flags of `bench rotation`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    output: Output,
}

/// Measures both costs, and prints a table.
///
/// # Errors
/// If the figures cannot be written.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut figures = Vec::new();
    for (name, balance) in [("round_robin", Balance::RoundRobin), ("least_loaded", Balance::LeastLoaded)] {
        figures.extend(request_figures(name, balance));
    }
    figures.extend(change_figures()?);
    figure::print(&figures);
    options.output.write(&figure::json(&figures))
}

/// A rotation in use: its requests are answered in the order in which they were sent.
struct Load {
    rotation: Rotation,
    in_flight: VecDeque<ReplicaId>,
    now: Instant,
    /// The virtual time between two requests.
    pause: Duration,
}

impl Load {
    fn new(replicas: usize, balance: Balance) -> Self {
        let now = Instant::now();
        let mut rotation = Rotation::new(balance);
        let endpoints =
            (0..replicas).map(|number| (format!("10.0.{}.{}:6000", number / 250, number % 250).into(), None));
        rotation.publish(&EndpointChanges::between(&Endpoints::new(), &endpoints.collect()), now);
        for replica in rotation.due_probes(now) {
            rotation.record_probe(replica, ProbeAnswer::Ready { capacity: CAPACITY }, now, 0.5);
        }
        let held = replicas * CAPACITY / 2;
        let pause = SERVICE_TIME.div_f64(held as f64);
        let mut load = Self { rotation, in_flight: VecDeque::new(), now, pause };
        for _ in 0..held {
            load.send();
        }
        load
    }

    /// What the worker does for an arrival: it asks for a free slot and the capacity, takes a slot, and looks for what
    /// is due.
    fn send(&mut self) {
        if self.rotation.has_free_slot(self.now) && black_box(self.rotation.totals()).capacity > 0 {
            let picked = self.rotation.pick(Constraints::default(), self.now);
            self.in_flight.extend(picked);
        }
        self.look_for_due();
    }

    /// What the worker does for an answer: it frees the slot, and looks for what is due.
    fn answer(&mut self) {
        if let Some(replica) = self.in_flight.pop_front() {
            let held = self.rotation.replica(replica).map_or(0, |replica| replica.in_flight);
            let ended = EndedAttempt {
                was_suspect: false,
                signal: HealthSignal::Answered { capacity: Some(CAPACITY) },
                news: SlotNews { taken: Some(held.saturating_sub(1)), ..SlotNews::default() },
                service_time: SERVICE_TIME,
            };
            black_box(self.rotation.release(replica, ended, self.now, 0.5));
        }
        self.look_for_due();
    }

    fn look_for_due(&mut self) {
        black_box(self.rotation.due_probes(self.now));
        for replica in self.rotation.due_liveness_checks(self.now, STALL_TIMEOUT) {
            self.rotation.record_probe(replica, ProbeAnswer::Ready { capacity: CAPACITY }, self.now, 0.5);
        }
        black_box(self.rotation.due_doubts(self.now));
        black_box(self.rotation.next_wake_up(self.now, STALL_TIMEOUT));
    }

    /// Nanoseconds for one request, the mean of one round.
    fn round(&mut self) -> f64 {
        let started = processor_time();
        for _ in 0..REQUESTS {
            self.now += self.pause;
            self.answer();
            self.send();
        }
        (processor_time() - started) * 1e9 / f64::from(REQUESTS)
    }
}

fn request_figures(name: &str, balance: Balance) -> Vec<Figure> {
    let mut loads = SIZES.map(|size| (Load::new(size, balance), Vec::new()));
    let progress = progress::bar((ROUNDS * SIZES.len()) as u64, "requests of the rotation");
    for _ in 0..ROUNDS {
        for (load, costs) in &mut loads {
            costs.push(load.round());
            progress.inc(1);
        }
    }
    progress.finish_and_clear();
    let [(_, alone), ..] = &loads;
    let mut figures = Vec::new();
    for (size, (_, costs)) in SIZES.into_iter().zip(&loads) {
        let cost = Figure::median(format!("{name}_ns_{size}"), costs.iter().copied(), "ns");
        figures.push(cost.labelled(format!("{name}: a request with {size} replicas")));
        if size > SIZES[0] {
            let ratio = Figure::ratio(format!("{name}_ratio_{size}"), costs, alone);
            figures
                .push(ratio.labelled(format!("{name}: {size} replicas ÷ one")).with_target(TargetRange::AtMost(1.2)));
        }
    }
    figures
}

/// The processor time of this thread in seconds. Unlike the time of day, it leaves out the other programs of the machine.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The slice `number` as the API server sends it, without the endpoint `left_out`.
fn slice(number: usize, left_out: Option<usize>) -> Result<Vec<u8>> {
    let endpoint = |index: usize| {
        let name = format!("replica-{number}-{index}");
        json!({"addresses": [format!("10.1.{number}.{index}")], "nodeName": format!("node-{}", index % 20),
            "conditions": {"ready": left_out != Some(index), "serving": left_out != Some(index), "terminating": false},
            "targetRef": {"kind": "Pod", "name": name, "namespace": "default", "uid": format!("uid-of-{name}")}})
    };
    let endpoints: Vec<_> = (0..SLICE).map(endpoint).collect();
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name_of(number), "namespace": "default"},
        "ports": [{"name": "http", "port": 6000, "protocol": "TCP"}], "endpoints": endpoints});
    serde_json::to_vec(&slice).context("write a slice as JSON")
}

fn name_of(slice: usize) -> String {
    format!("replica-{slice}")
}

/// The processor time for a change of one endpoint among [`SLICES`] × [`SLICE`]: reading the slice's JSON, comparing it
/// with the slice before, and changing the rotation.
fn change_figures() -> Result<[Figure; 2]> {
    let read = |text: &[u8]| -> Result<_> {
        let slice: EndpointSlice = serde_json::from_slice(text).context("read a slice")?;
        Ok(from_slice(&slice, Some("http")))
    };
    let mut all = HashMap::new();
    let mut texts = Vec::new();
    for number in 0..SLICES {
        let versions = [slice(number, Some(number))?, slice(number, None)?];
        all.insert(name_of(number), read(&versions[1])?);
        texts.push(versions);
    }
    let now = Instant::now();
    let (mut pods, mut rotation) = (PodEndpoints::default(), Rotation::new(Balance::RoundRobin));
    rotation.publish(&pods.replace_all(all), now);
    for replica in rotation.due_probes(now) {
        rotation.record_probe(replica, ProbeAnswer::Ready { capacity: CAPACITY }, now, 0.5);
    }
    let mut costs = Vec::new();
    for change in 0..CHANGES as usize {
        let (number, version) = (change % SLICES, change / SLICES % 2);
        let started = processor_time();
        let changes = pods.replace(name_of(number), read(&texts[number][version])?);
        anyhow::ensure!(changes.added.len() + changes.removed.len() == 1, "one endpoint has changed, not {changes:?}");
        black_box(rotation.publish(&changes, now));
        for replica in rotation.due_probes(now) {
            rotation.record_probe(replica, ProbeAnswer::Ready { capacity: CAPACITY }, now, 0.5);
        }
        costs.push(processor_time() - started);
    }
    let cost = median(costs).context("changes were measured")?;
    let share = 100.0 * cost / CHANGE_INTERVAL.as_secs_f64();
    Ok([
        Figure::new("change_us", 1e6 * cost, "µs").labelled("discovery: a change among 4000 endpoints"),
        Figure::new("change_core_share", share, "%")
            .labelled("discovery: a core's share with a change every 50 ms")
            .with_target(TargetRange::AtMost(2.0)),
    ])
}
