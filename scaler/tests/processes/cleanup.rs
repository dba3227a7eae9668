//! A killed scaler leaves no processes, list entries or control groups behind for the next scaler.

use crate::fixture::{Fixture, Scaler, wait_for};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// The shell lines of a replica that ends when its parent ends.
const REPLICA: &str = "exec 3<&0; cat <&3 > /dev/null";

/// The control groups below `folder` that the scaler with this process id has made.
fn groups(folder: &Path, scaler: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
        if entry.file_name().to_string_lossy().starts_with(&format!("roundhouse-{scaler}-")) {
            found.push(entry.path());
        }
        found.extend(groups(&entry.path(), scaler));
    }
    found
}

#[tokio::test]
async fn a_killed_scaler_leaves_no_process_list_entry_or_control_group_behind() {
    let fixture = Fixture::new().await;
    let flags = ["--min=2", "--cpu-share=0.5", "--memory-limit=64MiB"];
    let all = |count| {
        let fixture = &fixture;
        move || Some(fixture.processes()).filter(|found| found.len() == count)
    };
    let scaler = Scaler::start(&fixture, REPLICA, &flags).await;
    let old = wait_for("two replicas", all(2)).await;
    wait_for("a replica in the list", || fs::read_to_string(fixture.list()).ok().filter(|list| !list.is_empty())).await;
    let cgroups = Path::new("/sys/fs/cgroup");
    let process = scaler.process();
    if groups(cgroups, process).is_empty() {
        writeln!(std::io::stderr(), "control groups are not permitted here, so their removal is not checked")
            .expect("standard error is open");
    }
    scaler.kill().await;
    wait_for("the end of all replicas", all(0)).await;

    fixture.stub.is_ready.store(false, std::sync::atomic::Ordering::SeqCst);
    let scaler = Scaler::start(&fixture, REPLICA, &flags).await;
    let new = wait_for("two new replicas", all(2)).await;
    assert!(new.iter().all(|process| !old.contains(process)), "{old:?} {new:?}");
    // No new replica is ready, so the list is empty only if the new scaler has emptied it.
    assert_eq!(fs::read_to_string(fixture.list()).expect("the list exists"), "");
    assert_eq!(groups(cgroups, process), Vec::<PathBuf>::new());
    scaler.kill().await;
    wait_for("the end of all replicas", all(0)).await;
}

/// A process that SIGSTOP has stopped cannot see that its standard input closes. It must end all the same.
#[tokio::test]
async fn a_stopped_program_ends_with_its_parent() {
    let fixture = Fixture::new().await;
    let path = |name| fixture.folder.path().join(name).display().to_string();
    // Only the shell holds the pipe open. So the pipe closes when the shell is killed.
    let script = format!(
        "mkfifo {pipe}\n{scaler} --exit-with-parent --listen=127.0.0.1:0 --list={list} --replica={replica} \\\n\
         < {pipe} 4>&- > {output} 2>&1 &\n\
         echo $! > {id}.new; mv {id}.new {id}\nexec 4> {pipe}\nwait",
        pipe = path("pipe"),
        scaler = env!("CARGO_BIN_EXE_scaler"),
        list = path("list"),
        replica = fixture.stub.program(fixture.folder.path(), REPLICA).display(),
        output = path("output"),
        id = path("id"),
    );
    let mut shell = Command::new("sh");
    let mut shell =
        shell.args(["-c", &script]).stdin(Stdio::null()).kill_on_drop(true).spawn().expect("sh is installed");
    let id = wait_for("the scaler's process id", || fs::read_to_string(path("id")).ok()).await;
    let scaler = Pid::from_raw(id.trim().parse().expect("the file has a number")).expect("process ids are positive");
    wait_for("a replica", || fixture.processes().first().copied()).await;
    kill_process(scaler, Signal::STOP).expect("the scaler runs");
    shell.kill().await.expect("the shell was started by this test");
    wait_for("the end of the scaler", || test_kill_process(scaler).is_err().then_some(())).await;
    assert_eq!(fixture.processes(), Vec::<u32>::new());
}
