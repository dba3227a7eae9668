//! Replicas as child processes. One task owns them: it starts, drains and replaces them, and publishes the ready ones in the
//! file that the dispatcher watches.
//!
//! A child exits when its standard input closes, whose other end this process holds, so no child outlives this process.

mod restarts;
mod supervisor;

use super::{Desired, Handle, State, startup_mean};
use cgroup::{Controller, Group};
use law::observation::Replicas;
use restarts::Restarts;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use supervisor::Event;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};

/// How replicas are run.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The replica's program.
    pub program: PathBuf,
    /// Flags for the program, beyond those that this file adds.
    pub arguments: Vec<String>,
    /// The dispatcher's discovery file.
    pub list: PathBuf,
    /// Makes a control group for each replica; `None` if replicas have no limits.
    pub controller: Option<Controller>,
    /// How long a replica goes on accepting after SIGTERM: the dispatcher may not have read the list yet.
    pub drain_delay: Duration,
    /// Time from the end of that to SIGKILL.
    pub grace: Duration,
}

/// Starts the task with `replicas`.
pub fn run(spec: Spec, replicas: usize) -> Handle {
    let (desired, asked) = watch::channel(Desired { replicas, ..Desired::default() });
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
    Handle { desired, state, done: tokio::spawn(processes.run(asked)) }
}

/// A child as its owner sees it; a task of its own waits for the process.
struct Child {
    id: u64,
    phase: Phase,
    started: Instant,
    /// Dropping it asks the process to drain.
    stop: Option<oneshot::Sender<()>>,
    /// The control group, which is removed after the process has ended.
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
    children: Vec<Child>,
    next_id: u64,
    startup: Option<Duration>,
    restarts: Restarts,
    /// The addresses in the discovery file.
    listed: Option<BTreeSet<String>>,
}

impl Processes {
    async fn run(mut self, mut asked: watch::Receiver<Desired>) {
        // The task of each child sends two events at most.
        let (events, mut happened) = mpsc::channel(64);
        let mut desired = asked.borrow_and_update().replicas;
        let mut is_stopping = false;
        // Replicas that an earlier scaler has published are gone.
        self.list();
        loop {
            self.reconcile(desired, &events);
            self.report(desired);
            if is_stopping && self.children.is_empty() {
                return;
            }
            let retry = self.restarts.not_before().max(Instant::now() + Duration::from_millis(1));
            tokio::select! {
                changed = asked.changed(), if !is_stopping => match changed {
                    Ok(()) => desired = asked.borrow_and_update().replicas,
                    Err(_dropped) => (desired, is_stopping) = (0, true),
                },
                Some((id, event)) = happened.recv() => self.note(id, event),
                () = tokio::time::sleep_until(retry.into()), if self.serving() < desired => {}
            }
        }
    }

    /// Starts replicas that are missing, and drains those that are too many: starting ones first, then the newest.
    fn reconcile(&mut self, desired: usize, events: &mpsc::Sender<(u64, Event)>) {
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
            // Before the signal, or the dispatcher would send requests to a replica that no longer accepts them.
            self.list();
            drop(self.children[index].stop.take());
        }
        self.list();
    }

    /// Replicas that serve or will.
    fn serving(&self) -> usize {
        self.children.iter().filter(|child| !matches!(child.phase, Phase::Draining)).count()
    }

    fn start(&mut self, events: &mpsc::Sender<(u64, Event)>) -> std::io::Result<()> {
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
        let time_limit = self.spec.drain_delay + self.spec.grace + Duration::from_secs(1);
        tokio::spawn(supervisor::run(id, child, stopped, time_limit, events.clone()));
        self.children.push(Child { id, phase: Phase::Starting, started: Instant::now(), stop: Some(stop), group });
        tracing::info!(replica = id, "starting");
        Ok(())
    }

    /// Moves a process into a control group. If that fails, it runs on without limits, as it would without control groups.
    fn limit(&self, id: u64, process: u32) -> Option<Group> {
        let group = self.spec.controller.as_ref()?.group();
        let added = group.and_then(|group| group.add(process).map(|()| group));
        added.inspect_err(|error| tracing::warn!(replica = id, %error, "runs without its limits")).ok()
    }

    fn note(&mut self, id: u64, event: Event) {
        let Some(index) = self.children.iter().position(|child| child.id == id) else { return };
        match event {
            Event::Ready(address) => {
                let child = &mut self.children[index];
                if matches!(child.phase, Phase::Starting) {
                    let took = child.started.elapsed();
                    child.phase = Phase::Ready { address, since: Instant::now() };
                    self.startup = Some(startup_mean(self.startup, took));
                    tracing::info!(replica = id, startup_ms = took.as_millis() as u64, "ready");
                }
            }
            Event::Ended(status) => self.note_end(index, status),
        }
    }

    fn note_end(&mut self, index: usize, mut status: String) {
        let Child { id, phase, group, .. } = self.children.remove(index);
        if let Some(limit) = group.as_ref().and_then(Group::exceeded_memory) {
            status += &format!(": it needed more than --memory-limit {limit}");
        }
        let now = Instant::now();
        match phase {
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

    /// Replaces the dispatcher's file if the set of ready replicas changed.
    fn list(&mut self) {
        let address = |child: &Child| match &child.phase {
            Phase::Ready { address, .. } => Some(address.clone()),
            Phase::Starting | Phase::Draining => None,
        };
        let ready: BTreeSet<String> = self.children.iter().filter_map(address).collect();
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
        let count = |is_it: fn(&Phase) -> bool| self.children.iter().filter(|child| is_it(&child.phase)).count();
        let replicas = Replicas {
            desired,
            ready: count(|phase| matches!(phase, Phase::Ready { .. })),
            starting: count(|phase| matches!(phase, Phase::Starting)),
            // Replicas that keep dying and wait for their next start.
            blocked: if self.restarts.is_loop() { desired.saturating_sub(self.serving()) } else { 0 },
        };
        self.publish.send_replace(State { replicas, startup: self.startup, refusal: None });
    }
}
