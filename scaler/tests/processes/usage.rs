//! What children use of the processor, compared with another account of the kernel's.

use crate::stub::{PATIENCE, Scaler, Scene, eventually, run, stop};
use scaler::policy::{Pod, Stage};
use scaler::target::Handle;
use scaler::target::processes::Measuring;
use std::fs;
use std::time::{Duration, Instant};

/// Much shorter than the real period, and long beside the ticks of the kernel's clock.
const EVERY: Duration = Duration::from_secs(2);

/// Two samples and two steps of the law.
const LAW: Duration = Duration::from_secs(120);

/// How far off a mean may be, cores.
const PRECISION: f64 = 0.15;

/// About half a core where one is to be had; ends with its parent.
const HALF: &str = "while [ -d /proc/$PPID ]; do\n\
                    i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done\nsleep 0.02\ndone";

/// What the scheduler says that a process of one thread has run, ever.
fn ran(process: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/schedstat")).expect("it lives");
    Duration::from_nanos(text.split(' ').next().and_then(|field| field.parse().ok()).expect("nanoseconds"))
}

/// That account over time.
struct Course(Vec<(Instant, Duration)>);

impl Course {
    fn note(&mut self, process: u32) {
        self.0.push((Instant::now(), ran(process)));
    }

    /// Between two entries what was used evenly.
    fn at(&self, then: Instant) -> f64 {
        let after = self.0.partition_point(|entry| entry.0 <= then).clamp(1, self.0.len() - 1);
        let ((t0, r0), (t1, r1)) = (self.0[after - 1], self.0[after]);
        let share = then.saturating_duration_since(t0).as_secs_f64() / (t1 - t0).as_secs_f64();
        r0.as_secs_f64() + (r1 - r0).as_secs_f64() * share
    }

    fn cores(&self, from: Instant, to: Instant) -> f64 {
        (self.at(to) - self.at(from)) / (to - from).as_secs_f64()
    }
}

/// The only replica as the law sees it now.
fn only(target: &Handle) -> (Instant, Pod) {
    let now = Instant::now();
    match target.state.borrow().pods.at(now) {
        (pods, None) if pods.len() == 1 => (now, pods[0]),
        other => panic!("not one: {other:?}"),
    }
}

/// Compares several means of one replica with the truth, and returns the last.
async fn compare(scene: &Scene, target: &Handle) -> f64 {
    let [process] = scene.processes()[..] else { panic!("one process") };
    let mut course = Course(Vec::new());
    course.note(process);
    let mut ended: Option<Instant> = None;
    let mut cores = 0.0;
    for _ in 0..3 {
        let (from, to, found) = eventually("a sample", || {
            course.note(process);
            let (now, pod) = only(target);
            let usage = pod.usage?;
            let to = now - usage.age;
            let (from, began) = (to - usage.window, course.0[0].0);
            let is_new = ended.is_none_or(|ended| to > ended + EVERY / 2);
            (from >= began && is_new).then_some((from, to, usage.cores))
        })
        .await;
        course.note(process);
        let truth = course.cores(from, to);
        assert!((found - truth).abs() < PRECISION, "measured {found:.3}, was {truth:.3}");
        assert!(to - from >= EVERY / 2, "a window of {:?}", to - from);
        (ended, cores) = (Some(to), found);
    }
    cores
}

#[tokio::test]
async fn what_a_replica_uses_is_measured() {
    let scene = Scene::new().await;
    let measuring = Some(Measuring { every: EVERY, request: 0.7 });
    let began = Instant::now();
    let target = run(scene.spec_measuring(HALF, measuring), 1).await;
    let (_, pod) = only(&target);
    assert_eq!((pod.usage, pod.request), (None, 0.7), "one sample is no mean");
    assert!(matches!(pod.stage, Stage::Ready(since) if since <= pod.age), "{pod:?}");
    let cores = compare(&scene, &target).await;
    assert!((0.02..=1.1).contains(&cores), "{cores}");
    let (now, pod) = only(&target);
    assert!(pod.age <= now - began && pod.age > EVERY, "{pod:?}");
    stop(target).await;
}

#[tokio::test]
async fn the_law_cpu_adds_a_replica_where_one_is_busy() {
    let scene = Scene::new().await;
    // As much as it can get: a fourth of a core at least, even on a busy machine.
    let busy = "while [ -d /proc/$PPID ]; do :; done";
    let scaler = Scaler::start(&scene, busy, &["--policy=cpu:20", "--max=2"]).await;
    let began = Instant::now();
    let decision = loop {
        let decisions = scaler.decisions().await;
        if let Some(decision) = decisions.into_iter().find(|decision| decision["action"] != "hold") {
            break decision;
        }
        let log = || fs::read_to_string(scene.log()).unwrap_or_default();
        assert!(began.elapsed() < LAW, "not in time; it said:\n{}", log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!((&decision["action"], &decision["reason"]), (&"up".into(), &"processor".into()), "{decision}");
    assert_eq!((&decision["desired"], &decision["replicas"]["ready"]), (&2.into(), &1.into()), "{decision}");
    assert!(began.elapsed() > Duration::from_secs(29), "two samples, 15 s apart");
    eventually("another one", || (scene.processes().len() == 2).then_some(())).await;
}

#[tokio::test]
async fn an_idle_replica_uses_nothing() {
    let scene = Scene::new().await;
    // Ends with its standard input.
    let spec = scene.spec_measuring("exec cat >/dev/null", Some(Measuring { every: EVERY, request: 1.0 }));
    let target = run(spec, 1).await;
    let cores = eventually("a sample", || only(&target).1.usage).await.cores;
    assert!(cores < 0.05, "{cores}");
    stop(target).await;
}

#[tokio::test]
async fn a_replica_that_is_not_ready_is_seen_as_such() {
    let scene = Scene::new().await;
    scene.stub.is_ready.store(false, std::sync::atomic::Ordering::SeqCst);
    let spec = scene.spec_measuring("exec cat >/dev/null", Some(Measuring { every: EVERY, request: 1.0 }));
    let target = scaler::target::processes::run(spec, 1);
    let starting = eventually("a sample", || {
        let (pods, unknown) = target.state.borrow().pods.at(Instant::now());
        assert_eq!(unknown, None);
        pods.first().filter(|pod| pod.usage.is_some()).copied()
    })
    .await;
    assert_eq!(starting.stage, Stage::Unready(starting.age));
    scene.stub.is_ready.store(true, std::sync::atomic::Ordering::SeqCst);
    let ready = eventually("ready", || Some(only(&target).1).filter(|pod| matches!(pod.stage, Stage::Ready(_)))).await;
    assert!(ready.age < PATIENCE * 2);
    stop(target).await;
}

#[tokio::test]
async fn nobody_asked_nothing_is_told() {
    let scene = Scene::new().await;
    let target = run(scene.spec("exec cat >/dev/null"), 1).await;
    assert_eq!(target.state.borrow().pods.at(Instant::now()), (vec![], None));
    stop(target).await;
}
