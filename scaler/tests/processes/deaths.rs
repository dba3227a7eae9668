//! Replicas that die are replaced, and the log has the reason.

use crate::fixture::{Fixture, Scaler, stop, wait_for, wait_for_state};
use scaler::target::processes::{self, ProcessesSpec};
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_replica_over_its_memory_limit_is_replaced_and_the_log_says_why() {
    let fixture = Fixture::new().await;
    let eat = fixture.folder.path().join("eat");
    // `tail` holds the whole line of 256 MB in memory, which is over the limit.
    let lines = format!(
        "while [ ! -e {0} ]; do sleep 0.05; done\nrm {0}\nhead -c 256000000 /dev/zero | tail -n 1 > /dev/null\nexit 1",
        eat.display()
    );
    let scaler = Scaler::start(&fixture, &lines, &["--memory-limit=32MiB"]).await;
    let first = wait_for("a replica", || fixture.processes().first().copied()).await;
    if fixture.log_text().contains("not permitted") {
        return writeln!(std::io::stderr(), "skipped: control groups are not permitted here")
            .expect("standard error is open");
    }
    fs::write(&eat, "").expect("the folder is writable");
    wait_for("another replica", || fixture.processes().into_iter().find(|&other| other != first)).await;
    let log = fixture.log_text();
    assert!(log.contains("exit status: 1: it needed more than --memory-limit 32.0 MiB"), "{log}");
    scaler.kill().await;
}

#[tokio::test]
async fn a_list_that_could_not_be_written_is_written_as_soon_as_that_is_possible() {
    let fixture = Fixture::new().await;
    let folder = fixture.folder.path().join("absent");
    let list = folder.join("replicas");
    let spec = ProcessesSpec { list: list.clone(), ..fixture.spec("exec sleep 600") };
    let target = processes::run(spec, 1);
    wait_for_state(&target, "a ready replica", |state| state.replicas.ready == 1).await;
    assert!(!list.exists());
    fs::create_dir(&folder).expect("the folder is writable");
    let text = wait_for("the list", || fs::read_to_string(&list).ok()).await;
    assert_eq!(text, format!("{}\n", fixture.stub.address));
    stop(target).await;
}

#[tokio::test]
async fn replicas_that_keep_dying_are_restarted_after_growing_pauses_and_count_as_blocked() {
    let fixture = Fixture::new().await;
    let starts = fixture.folder.path().join("starts");
    let began = Instant::now();
    let target = processes::run(fixture.spec(&format!("echo >> {}\nsleep 0.2", starts.display())), 1);
    wait_for_state(&target, "one blocked replica", |state| state.replicas.blocked == 1).await;
    let count = || fs::read_to_string(&starts).map_or(0, |text| text.lines().count());
    wait_for("the fourth start of a replica", || (count() == 4).then_some(())).await;
    // Each replica is ready before it dies. The first is replaced at once, the second after 1 s, the third after 2 s.
    assert!(began.elapsed() > Duration::from_secs(3), "{:?}", began.elapsed());
    stop(target).await;
}
