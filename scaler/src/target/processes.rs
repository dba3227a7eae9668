//! Replicas as child processes. One task owns them: it starts, drains and replaces them, and publishes those that are
//! ready in the file that the dispatcher watches.
//!
//! A child holds the other end of its standard input and exits when it closes, so none outlives this process.

mod restarts;
mod shepherd;

use super::cgroup::{Controller, Group};
use super::{Handle, State, Wish, startup_mean};
use law::observation::Replicas;
use restarts::Restarts;
use shepherd::Event;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};

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
    /// Unpublished → SIGTERM'd replicas accept for this long: the dispatcher may not have read the list yet.
    pub drain_delay: Duration,
    /// SIGTERM → SIGKILL.
    pub grace: Duration,
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
    };
    Handle { desired: set_desired, state, done: tokio::spawn(processes.run(wanted)) }
}

/// A child as its owner sees it; a task of its own waits on the process.
struct Replica {
    id: u64,
    phase: Phase,
    started: Instant,
    /// Dropping or using it asks the process to drain.
    stop: Option<oneshot::Sender<()>>,
    /// Removed after the process has ended.
    group: Option<Group>,
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
}

impl Processes {
    async fn run(mut self, mut wanted: watch::Receiver<Wish>) {
        // Each child sends two at most.
        let (events, mut happened) = mpsc::channel(64);
        let mut desired = wanted.borrow_and_update().replicas;
        let mut stopping = false;
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
        let group = child.id().and_then(|process| self.limit(id, process));
        let (stop, stopped) = oneshot::channel();
        let limit = self.spec.drain_delay + self.spec.grace + Duration::from_secs(1);
        tokio::spawn(shepherd::run(id, child, stopped, limit, events.clone()));
        self.children.push(Replica { id, phase: Phase::Starting, started: Instant::now(), stop: Some(stop), group });
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
        self.publish.send_replace(State { replicas, startup: self.startup, refusal: None });
    }
}
