//! Replicas that die are replaced, and the log gives the reason.

use crate::stub::{Scaler, Scene, eventually, stop, until};
use scaler::target::processes;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_replica_over_its_memory_limit_is_replaced_and_the_log_says_why() {
    let scene = Scene::new().await;
    let eat = scene.folder.path().join("eat");
    // `tail` holds the whole line of 256 MB in memory, which is over the limit.
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
async fn replicas_that_keep_dying_start_after_growing_pauses_and_count_as_blocked() {
    let scene = Scene::new().await;
    let starts = scene.folder.path().join("starts");
    let began = Instant::now();
    let target = processes::run(scene.spec(&format!("echo >> {}\nsleep 0.2", starts.display())), 1);
    until(&target, "it is seen that this is a loop", |state| state.replicas.blocked == 1).await;
    let count = || fs::read_to_string(&starts).map_or(0, |text| text.lines().count());
    eventually("a fourth start", || (count() == 4).then_some(())).await;
    // The first dead replica is replaced at once, the second after 1 s, the third after 2 s.
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    stop(target).await;
}
