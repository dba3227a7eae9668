//! Replicas that die: what becomes of them, and what is said about it.

use crate::stub::{Scaler, Scene, eventually, stop, until};
use scaler::target::processes;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

#[tokio::test]
async fn one_that_needs_too_much_memory_is_replaced_and_the_log_says_why() {
    let scene = Scene::new().await;
    let eat = scene.folder.path().join("eat");
    // A line of 256 MB, held at once.
    let lines = format!(
        "while [ ! -e {0} ]; do sleep 0.05; done\nrm {0}\nhead -c 256000000 /dev/zero | tail -n 1 > /dev/null\nexit 1",
        eat.display()
    );
    let scaler = Scaler::start(&scene, &lines, &["--memory-limit=32MiB"]).await;
    let first = eventually("a replica is there", || scene.processes().first().copied()).await;
    if scene.said().contains("not permitted") {
        return writeln!(std::io::stderr(), "skipped: control groups are not permitted here").expect("it is open");
    }
    fs::write(&eat, "").expect("written");
    eventually("another is there", || scene.processes().into_iter().find(|&other| other != first)).await;
    let said = scene.said();
    assert!(said.contains("exit status: 1: it needed more than --memory-limit 32.0 MiB"), "{said}");
    scaler.kill().await;
}

#[tokio::test]
async fn ones_that_keep_dying_are_started_ever_later_and_count_as_blocked() {
    let scene = Scene::new().await;
    let starts = scene.folder.path().join("starts");
    let began = Instant::now();
    let target = processes::run(scene.spec(&format!("echo >> {}\nsleep 0.2", starts.display())), 1);
    until(&target, "it is seen that this is a loop", |state| state.replicas.blocked == 1).await;
    let count = || fs::read_to_string(&starts).map_or(0, |text| text.lines().count());
    eventually("a fourth start", || (count() == 4).then_some(())).await;
    // The first death is followed by another start at once, the second after a second, the third after two.
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    stop(target).await;
}
