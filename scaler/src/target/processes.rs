//! Replicas as child processes. One task starts, drains and replaces them, and publishes the ready ones in the file
//! that the dispatcher watches.
//!
//! A child exits when its standard input closes. This process holds the other end, so no child outlives it.

mod restarts;
mod supervisor;

use super::{Desired, Handle, TargetState, startup_mean};
use cgroup::{Controller, Group};
use law::observation::Replicas;
use restarts::Restarts;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use supervisor::ChildEvent;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};

/// Time after which the file for the dispatcher is written again if that has failed.
const RELIST: Duration = Duration::from_secs(1);

/// The settings of replicas that run as child processes.
#[derive(Debug, Clone)]
pub struct ProcessesSpec {
    /// The replica's program.
    pub program: PathBuf,
    /// Flags for the program. The scaler adds others, such as `--listen`.
    pub arguments: Vec<String>,
    /// The file in which ready replicas are published to the dispatcher.
    pub list: PathBuf,
    /// Makes a control group for each replica; `None` if replicas have no limits.
    pub controller: Option<Controller>,
    /// Time after SIGTERM in which a replica accepts requests, since the dispatcher may not have read the list yet.
    pub drain_delay: Duration,
    /// Time after the drain delay in which a replica may finish its requests. A second later it is killed.
    pub grace: Duration,
}

/// Starts the task, which starts `replicas` replicas.
pub fn run(spec: ProcessesSpec, replicas: usize) -> Handle {
    let (desired, receiver) = watch::channel(Desired { replicas, ..Desired::default() });
    let (publish, state) = watch::channel(TargetState::default());
    let processes = Processes {
        spec,
        publish,
        children: Vec::new(),
        next_id: 1,
        startup: None,
        restarts: Restarts::new(Instant::now()),
        listed: None,
    };
    Handle { desired, state, done: tokio::spawn(processes.run(receiver)) }
}

/// A child process. The task in `supervisor` waits for its end.
struct Child {
    id: u64,
    phase: ChildPhase,
    started: Instant,
    /// Dropping this sender drains the process.
    stop: Option<oneshot::Sender<()>>,
    /// The control group, which is removed after the process has ended.
    group: Option<Group>,
}

enum ChildPhase {
    Starting,
    Ready { address: String, since: Instant },
    Draining,
}

struct Processes {
    spec: ProcessesSpec,
    publish: watch::Sender<TargetState>,
    children: Vec<Child>,
    next_id: u64,
    startup: Option<Duration>,
    restarts: Restarts,
    /// The addresses in the file; `None` before it is written.
    listed: Option<BTreeSet<String>>,
}

impl Processes {
    async fn run(mut self, mut receiver: watch::Receiver<Desired>) {
        // A bound for events that are not handled yet. The task of each child sends two events at most.
        let (events, mut happened) = mpsc::channel(64);
        let mut desired = receiver.borrow_and_update().replicas;
        let mut is_stopping = false;
        // The replicas of an earlier scaler have ended, so their addresses must leave the file.
        self.list();
        loop {
            self.reconcile(desired, &events);
            self.report(desired);
            if is_stopping && self.children.is_empty() {
                return;
            }
            let pause = self.restarts.pause(Instant::now()).max(Duration::from_millis(1));
            tokio::select! {
                changed = receiver.changed(), if !is_stopping => match changed {
                    Ok(()) => desired = receiver.borrow_and_update().replicas,
                    Err(_dropped) => (desired, is_stopping) = (0, true),
                },
                Some((id, event)) = happened.recv() => self.note(id, event),
                () = tokio::time::sleep(pause), if self.serving() < desired => {}
                () = tokio::time::sleep(RELIST), if self.listed.as_ref() != Some(&self.ready()) => {}
            }
        }
    }

    /// Starts missing replicas, and drains superfluous ones: those that are starting first, then the newest.
    fn reconcile(&mut self, desired: usize, events: &mpsc::Sender<(u64, ChildEvent)>) {
        while self.serving() < desired && self.restarts.pause(Instant::now()).is_zero() {
            if let Err(error) = self.start(events) {
                let (program, pause) = (self.spec.program.display(), self.restarts.note(Instant::now(), None));
                tracing::error!(%program, %error, ?pause, "cannot start a replica; trying again after the pause");
            }
        }
        while self.serving() > desired {
            let starting = self.children.iter().rposition(|child| matches!(child.phase, ChildPhase::Starting));
            let newest = self.children.iter().rposition(|child| !matches!(child.phase, ChildPhase::Draining));
            let Some(index) = starting.or(newest) else { break };
            let child = &mut self.children[index];
            tracing::info!(replica = child.id, "draining the replica");
            child.phase = ChildPhase::Draining;
            // The list comes before the signal, or the dispatcher would send requests to a replica that refuses them.
            self.list();
            drop(self.children[index].stop.take());
        }
        self.list();
    }

    /// The number of replicas that are starting or ready.
    fn serving(&self) -> usize {
        self.children.iter().filter(|child| !matches!(child.phase, ChildPhase::Draining)).count()
    }

    fn start(&mut self, events: &mpsc::Sender<(u64, ChildEvent)>) -> std::io::Result<()> {
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
        self.children.push(Child { id, phase: ChildPhase::Starting, started: Instant::now(), stop: Some(stop), group });
        tracing::info!(replica = id, "starting a replica");
        Ok(())
    }

    /// Moves a process into a new control group. If that fails, the process runs without limits.
    fn limit(&self, id: u64, process: u32) -> Option<Group> {
        let group = self.spec.controller.as_ref()?.group();
        let added = group.and_then(|group| group.add(process).map(|()| group));
        added.inspect_err(|error| tracing::warn!(replica = id, %error, "the replica runs without its limits")).ok()
    }

    fn note(&mut self, id: u64, event: ChildEvent) {
        let Some(index) = self.children.iter().position(|child| child.id == id) else { return };
        match event {
            ChildEvent::Ready(address) => {
                let child = &mut self.children[index];
                if matches!(child.phase, ChildPhase::Starting) {
                    let took = child.started.elapsed();
                    child.phase = ChildPhase::Ready { address, since: Instant::now() };
                    self.startup = Some(startup_mean(self.startup, took));
                    tracing::info!(replica = id, startup_ms = took.as_millis() as u64, "the replica is ready");
                }
            }
            ChildEvent::Ended(status) => self.note_end(index, status),
        }
    }

    fn note_end(&mut self, index: usize, mut status: String) {
        let Child { id, phase, group, .. } = self.children.remove(index);
        if let Some(limit) = group.as_ref().and_then(Group::exceeded_memory) {
            status += &format!(": it needed more than --memory-limit {limit}");
        }
        let now = Instant::now();
        match phase {
            ChildPhase::Draining => tracing::info!(replica = id, %status, "the replica is drained"),
            ChildPhase::Ready { since, .. } => {
                let pause = self.restarts.note(now, Some(now - since));
                tracing::warn!(replica = id, %status, ?pause, "the replica died; another one starts after the pause");
            }
            ChildPhase::Starting => {
                let pause = self.restarts.note(now, None);
                tracing::error!(replica = id, %status, ?pause, "the replica ended before it was ready; see its output");
            }
        }
    }

    /// The addresses of the ready replicas.
    fn ready(&self) -> BTreeSet<String> {
        let address = |child: &Child| match &child.phase {
            ChildPhase::Ready { address, .. } => Some(address.clone()),
            ChildPhase::Starting | ChildPhase::Draining => None,
        };
        self.children.iter().filter_map(address).collect()
    }

    /// Writes the file for the dispatcher if the set of ready replicas has changed.
    fn list(&mut self) {
        let ready = self.ready();
        if self.listed.as_ref() == Some(&ready) {
            return;
        }
        let text: String = ready.iter().map(|address| format!("{address}\n")).collect();
        let new = self.spec.list.with_extension("new");
        match std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.spec.list)) {
            Ok(()) => self.listed = Some(ready),
            Err(error) => {
                let list = self.spec.list.display();
                tracing::error!(%list, %error, "cannot write the ready replicas; the dispatcher keeps the last list");
            }
        }
    }

    fn report(&self, desired: usize) {
        let count = |is: fn(&ChildPhase) -> bool| self.children.iter().filter(|child| is(&child.phase)).count();
        let replicas = Replicas {
            desired,
            ready: count(|phase| matches!(phase, ChildPhase::Ready { .. })),
            starting: count(|phase| matches!(phase, ChildPhase::Starting)),
            // While replicas keep dying, those that wait for their next start are blocked.
            blocked: if self.restarts.is_loop() { desired.saturating_sub(self.serving()) } else { 0 },
            lost: 0,
        };
        self.publish.send_replace(TargetState { replicas, startup: self.startup, ..TargetState::default() });
    }
}
