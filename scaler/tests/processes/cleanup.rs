//! A killed scaler leaves no processes, list entries or control groups behind, and the next scaler starts new replicas.

use crate::stub::{PATIENCE, Scaler, Scene, eventually};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Shell lines of a replica that ends when its parent ends.
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
async fn a_killed_scaler_leaves_nothing_behind_for_the_next_one() {
    let scene = Scene::new().await;
    let flags = ["--min=2", "--cpu-share=0.5", "--memory-limit=64MiB"];
    let all = |count| {
        let scene = &scene;
        move || Some(scene.processes()).filter(|found| found.len() == count)
    };
    let scaler = Scaler::start(&scene, REPLICA, &flags).await;
    let old = eventually("two are there", all(2)).await;
    eventually("one is listed", || fs::read_to_string(scene.list()).ok().filter(|list| !list.is_empty())).await;
    let cgroups = Path::new("/sys/fs/cgroup");
    let process = scaler.process();
    if groups(cgroups, process).is_empty() {
        writeln!(std::io::stderr(), "not checked: control groups are not permitted here").expect("it is open");
    }
    scaler.kill().await;
    eventually("they have ended", all(0)).await;

    scene.stub.is_ready.store(false, std::sync::atomic::Ordering::SeqCst);
    let scaler = Scaler::start(&scene, REPLICA, &flags).await;
    let new = eventually("two are there again", all(2)).await;
    assert!(new.iter().all(|process| !old.contains(process)), "{old:?} {new:?}");
    // The new scaler has emptied the list of the killed one before any new replica is ready.
    assert_eq!(fs::read_to_string(scene.list()).expect("there is one"), "");
    assert_eq!(groups(cgroups, process), Vec::<PathBuf>::new());
    scaler.kill().await;
    eventually("they have ended", all(0)).await;
}

/// A process that SIGSTOP has stopped does not see its standard input close, and must end all the same.
#[tokio::test]
async fn a_stopped_program_ends_with_its_parent() {
    let scene = Scene::new().await;
    let path = |name| scene.folder.path().join(name).display().to_string();
    // Only the shell holds the pipe open, so the pipe closes when the shell is killed.
    let script = format!(
        "mkfifo {pipe}\n{scaler} --exit-with-parent --listen=127.0.0.1:0 --list={list} --replica={replica} \\\n\
         < {pipe} 4>&- > {said} 2>&1 &\n\
         echo $! > {id}.new; mv {id}.new {id}\nexec 4> {pipe}\nwait",
        pipe = path("pipe"),
        scaler = env!("CARGO_BIN_EXE_scaler"),
        list = path("list"),
        replica = scene.stub.program(scene.folder.path(), REPLICA).display(),
        said = path("said"),
        id = path("id"),
    );
    let mut shell = Command::new("sh");
    let mut shell = shell.args(["-c", &script]).stdin(Stdio::null()).kill_on_drop(true).spawn().expect("sh exists");
    let id = eventually("it is started", || fs::read_to_string(path("id")).ok()).await;
    let scaler = Pid::from_raw(id.trim().parse().expect("a number")).expect("an id");
    eventually("a replica is there", || scene.processes().first().copied()).await;
    kill_process(scaler, Signal::STOP).expect("it is ours");
    shell.kill().await.expect("it is ours");
    let gone = || test_kill_process(scaler).is_err().then_some(());
    tokio::time::timeout(PATIENCE, eventually("it has ended", gone)).await.expect("in time");
    assert_eq!(scene.processes(), Vec::<u32>::new());
}
