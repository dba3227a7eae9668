//! Replicas as child processes. One task owns them: it starts, drains and replaces them, and publishes those that are
//! ready in the file that the dispatcher watches.
//!
//! A child holds the other end of its standard input and exits when it closes, so none outlives this process.

mod restarts;
mod shepherd;
pub mod stat;

use super::cgroup::{Controller, Group};
use super::usage::{Meter, Pods};
use super::{Handle, State, Wish, startup_mean};
use crate::policy::{Pod, Replicas, Stage};
use restarts::Restarts;
use shepherd::Event;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

/// How replicas are run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The replica's program.
    pub program: PathBuf,
    /// Its flags, beyond those that this file adds.
    pub arguments: Vec<String>,
    /// The dispatcher's discovery file.
    pub list: PathBuf,
    /// Limits each of them, where control groups are permitted.
    pub controller: Option<Controller>,
    /// Whether and how what they use of the processor is measured.
    pub measuring: Option<Measuring>,
    /// Unpublished → SIGTERM'd replicas accept for this long: the dispatcher may not have read the list yet.
    pub drain_delay: Duration,
    /// SIGTERM → SIGKILL.
    pub grace: Duration,
}

/// How processor use is measured.
#[derive(Debug, Clone, Copy)]
pub struct Measuring {
    /// Between two samples.
    pub every: Duration,
    /// Cores that a replica is taken to have requested.
    pub request: f64,
}

/// Starts the task with `desired` replicas.
pub fn run(spec: Spec, desired: usize) -> Handle {
    let (set_desired, wanted) = watch::channel(Wish { replicas: desired, ..Wish::default() });
    let (publish, state) = watch::channel(State::default());
    let processes = Processes {
        spec,
        publish,
        children: Vec::new(),
        next_id: 1,
        startup: None,
        restarts: Restarts::new(Instant::now()),
        listed: None,
        unmeasured: None,
    };
    Handle { desired: set_desired, state, done: tokio::spawn(processes.run(wanted)) }
}

/// A child as its owner sees it; a task of its own waits on the process.
struct Replica {
    id: u64,
    phase: Phase,
    started: Instant,
    /// Its id, which is its own until it has been waited for.
    process: Option<u32>,
    meter: Meter,
    /// Dropping or using it asks the process to drain.
    stop: Option<oneshot::Sender<()>>,
    /// Removed after the process has ended.
    group: Option<Group>,
}

impl Replica {
    /// What it has used of the processor: by its control group's account where that keeps one.
    fn processor_time(&self) -> std::io::Result<Duration> {
        if let Some(Ok(used)) = self.group.as_ref().map(Group::processor_time) {
            return Ok(used);
        }
        let gone = || std::io::Error::new(std::io::ErrorKind::NotFound, "the process has ended");
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.ok_or_else(gone)?))?;
        let odd = || std::io::Error::new(std::io::ErrorKind::InvalidData, "/proc/PID/stat has an unknown form");
        stat::processor_time(&stat, rustix::param::clock_ticks_per_second()).ok_or_else(odd)
    }
}

enum Phase {
    Starting,
    Ready { address: String, since: Instant },
    Draining,
}

struct Processes {
    spec: Spec,
    publish: watch::Sender<State>,
    children: Vec<Replica>,
    next_id: u64,
    startup: Option<Duration>,
    restarts: Restarts,
    /// What the file holds.
    listed: Option<BTreeSet<String>>,
    /// Why not even one replica's processor use could be sampled.
    unmeasured: Option<String>,
}

impl Processes {
    async fn run(mut self, mut wanted: watch::Receiver<Wish>) {
        // Each child sends two at most.
        let (events, mut happened) = mpsc::channel(64);
        let mut desired = wanted.borrow_and_update().replicas;
        let mut stopping = false;
        let mut sampling = self.spec.measuring.map(|measuring| {
            let mut sampling = tokio::time::interval(measuring.every);
            sampling.set_missed_tick_behavior(MissedTickBehavior::Delay);
            sampling
        });
        // What an earlier scaler had published is gone.
        self.list();
        loop {
            self.reconcile(desired, &events);
            self.report(desired);
            if stopping && self.children.is_empty() {
                return;
            }
            let retry = self.restarts.not_before().max(Instant::now() + Duration::from_millis(1));
            tokio::select! {
                changed = wanted.changed(), if !stopping => match changed {
                    Ok(()) => desired = wanted.borrow_and_update().replicas,
                    Err(_dropped) => (desired, stopping) = (0, true),
                },
                Some(event) = happened.recv() => self.note(event),
                () = tokio::time::sleep_until(retry.into()), if self.serving() < desired => {}
                () = async {
                    match &mut sampling {
                        Some(sampling) => drop(sampling.tick().await),
                        None => std::future::pending().await,
                    }
                } => self.sample(),
            }
        }
    }

    /// Starts what is missing and drains what is too many: starting ones first, then the newest.
    fn reconcile(&mut self, desired: usize, events: &mpsc::Sender<Event>) {
        while self.serving() < desired && self.restarts.not_before() <= Instant::now() {
            if let Err(error) = self.start(events) {
                tracing::error!(program = %self.spec.program.display(), %error, "a replica could not be started");
                self.restarts.note(Instant::now(), None);
            }
        }
        while self.serving() > desired {
            let starting = self.children.iter().rposition(|child| matches!(child.phase, Phase::Starting));
            let newest = self.children.iter().rposition(|child| !matches!(child.phase, Phase::Draining));
            let Some(index) = starting.or(newest) else { break };
            let child = &mut self.children[index];
            tracing::info!(replica = child.id, "draining");
            child.phase = Phase::Draining;
            // Off the list first, then the signal.
            self.list();
            drop(self.children[index].stop.take());
        }
        self.list();
    }

    /// Replicas that serve or will.
    fn serving(&self) -> usize {
        self.children.iter().filter(|child| !matches!(child.phase, Phase::Draining)).count()
    }

    fn start(&mut self, events: &mpsc::Sender<Event>) -> std::io::Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        let child = Command::new(&self.spec.program)
            .args(["--listen", "127.0.0.1:0", "--exit-with-parent"])
            .arg(format!("--name=replica-{id}"))
            .arg(format!("--drain-delay={}ms", self.spec.drain_delay.as_millis()))
            .arg(format!("--grace={}ms", self.spec.grace.as_millis()))
            .args(&self.spec.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let process = child.id();
        let group = process.and_then(|process| self.limit(id, process));
        let (stop, stopped) = oneshot::channel();
        let limit = self.spec.drain_delay + self.spec.grace + Duration::from_secs(1);
        tokio::spawn(shepherd::run(id, child, stopped, limit, events.clone()));
        self.children.push(Replica {
            id,
            phase: Phase::Starting,
            started: Instant::now(),
            process,
            meter: Meter::default(),
            stop: Some(stop),
            group,
        });
        tracing::info!(replica = id, "starting");
        Ok(())
    }

    /// Limits a process; unlimited it runs on, as it would where control groups are not permitted.
    fn limit(&self, id: u64, process: u32) -> Option<Group> {
        let group = self.spec.controller.as_ref()?.group();
        let added = group.and_then(|group| group.add(process).map(|()| group));
        added.inspect_err(|error| tracing::warn!(replica = id, %error, "runs without its limits")).ok()
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Ready { id, address } => {
                let Some(child) = self.children.iter_mut().find(|child| child.id == id) else { return };
                if matches!(child.phase, Phase::Starting) {
                    let took = child.started.elapsed();
                    child.phase = Phase::Ready { address, since: Instant::now() };
                    self.startup = Some(startup_mean(self.startup, took));
                    tracing::info!(replica = id, startup_ms = took.as_millis() as u64, "ready");
                }
            }
            Event::Ended { id, status } => {
                let Some(index) = self.children.iter().position(|child| child.id == id) else { return };
                let child = self.children.remove(index);
                let status = match child.group.as_ref().and_then(Group::exceeded_memory) {
                    Some(limit) => format!("{status}: it needed more than --memory-limit {limit}"),
                    None => status,
                };
                let now = Instant::now();
                match child.phase {
                    Phase::Draining => tracing::info!(replica = id, %status, "drained"),
                    Phase::Ready { since, .. } => {
                        self.restarts.note(now, Some(now - since));
                        let pause = self.restarts.pause(now);
                        tracing::warn!(replica = id, %status, ?pause, "died; another takes its place after the pause");
                    }
                    Phase::Starting => {
                        self.restarts.note(now, None);
                        let pause = self.restarts.pause(now);
                        tracing::error!(replica = id, %status, ?pause, "ended before it was ready");
                    }
                }
            }
        }
    }

    /// Replaces the dispatcher's file if the set of ready replicas changed.
    fn list(&mut self) {
        let ready: BTreeSet<String> = self
            .children
            .iter()
            .filter_map(|child| match &child.phase {
                Phase::Ready { address, .. } => Some(address.clone()),
                _ => None,
            })
            .collect();
        if self.listed.as_ref() == Some(&ready) {
            return;
        }
        let text: String = ready.iter().map(|address| format!("{address}\n")).collect();
        let new = self.spec.list.with_extension("new");
        match std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.spec.list)) {
            Ok(()) => self.listed = Some(ready),
            // Tried again at the next event; the dispatcher goes on with the last list.
            Err(error) => tracing::error!(list = %self.spec.list.display(), %error, "cannot publish the replicas"),
        }
    }

    fn report(&self, desired: usize) {
        let count = |wanted: fn(&Phase) -> bool| self.children.iter().filter(|child| wanted(&child.phase)).count();
        let replicas = Replicas {
            desired,
            ready: count(|phase| matches!(phase, Phase::Ready { .. })),
            starting: count(|phase| matches!(phase, Phase::Starting)),
            // Those that keep dying, and wait for their next attempt.
            blocked: if self.restarts.is_loop() { desired - self.serving().min(desired) } else { 0 },
        };
        self.publish.send_replace(State { replicas, startup: self.startup, refusal: None, pods: self.pods() });
    }

    fn sample(&mut self) {
        let now = Instant::now();
        let (mut failure, mut sampled) = (None, false);
        for child in &mut self.children {
            match child.processor_time() {
                Ok(used) => {
                    child.meter.sample(now, used);
                    sampled = true;
                }
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.filter(|_| !sampled).map(|error| {
            format!(
                "cannot measure what replicas use of the processor ({error}); choose a law that does not look at it"
            )
        });
        if let Some(failure) = &failure
            && self.unmeasured.is_none()
        {
            tracing::warn!("{failure}");
        }
        self.unmeasured = failure;
    }

    fn pods(&self) -> Pods {
        let Some(measuring) = self.spec.measuring else { return Pods::Unasked };
        if let Some(failure) = &self.unmeasured {
            return Pods::Unknown(failure.clone());
        }
        let now = Instant::now();
        let pod = |child: &Replica| {
            let age = now - child.started;
            let stage = match &child.phase {
                Phase::Starting => Stage::Unready(age),
                Phase::Ready { since, .. } => Stage::Ready(now - *since),
                Phase::Draining => return None,
            };
            Some(Pod { age, stage, request: measuring.request, usage: child.meter.usage(now) })
        };
        Pods::Known(now, self.children.iter().filter_map(pod).collect())
    }
}
