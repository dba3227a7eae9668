//! A whole system on this machine: a dispatcher, a scaler, and the replicas that the scaler starts.

use crate::{command, http, paths};
use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time limit for a program to listen, and for the first replica to be ready.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Time limit for a program to drain and exit; its own grace period is shorter.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Lines of a program's standard output that may wait to be read. The program blocks if there are more.
const WAITING_LINES: usize = 64;

/// A running program that serves HTTP. It exits when its standard input closes: when this value is dropped, or when
/// this process ends.
pub struct ServiceProcess {
    name: &'static str,
    child: Child,
    /// Lines of the program's standard output. The lock lets threads share this value.
    lines: Mutex<Receiver<String>>,
    /// The loopback address that the program listens on, `host:port`.
    pub address: String,
}

impl ServiceProcess {
    /// Starts the program `name` of the workspace. Its log is `name.log` in the folder `logs`.
    ///
    /// # Errors
    /// If the program does not listen within 60 s.
    pub fn start(name: &'static str, arguments: &[String], logs: &Path) -> Result<Self> {
        let mut command = Command::new(paths::program(name));
        command.arg("--exit-with-parent").args(arguments);
        Self::spawn(name, command, logs)
    }

    /// Starts any program that prints `listening on http://ADDRESS` as its first line, and exits when its standard
    /// input closes. Its log is `name.log` in the folder `logs`.
    ///
    /// # Errors
    /// If the program does not listen within 60 s.
    pub fn spawn(name: &'static str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // A Ctrl-C at the terminal reaches only this process, which then stops the programs in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        let lines = lines(child.stdout.take().expect("standard output is piped"));
        let first = lines.recv_timeout(START_LIMIT).unwrap_or_default();
        let Some(address) = first.trim().strip_prefix("listening on http://") else {
            child.kill().with_context(|| format!("kill {name}"))?;
            child.wait().with_context(|| format!("wait for {name}"))?;
            bail!(
                "{name} did not start; its log {} is:\n{}",
                log.display(),
                fs::read_to_string(&log).unwrap_or_default()
            );
        };
        let address = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
        Ok(Self { name, child, lines: Mutex::new(lines), address })
    }

    /// The next line on the program's standard output.
    ///
    /// # Errors
    /// If the program ends, or prints nothing for 60 s.
    pub fn line(&mut self) -> Result<String> {
        let lines = self.lines.get_mut().unwrap_or_else(PoisonError::into_inner);
        let line = lines.recv_timeout(START_LIMIT);
        line.with_context(|| format!("{0} ended, or printed nothing within {START_LIMIT:?}; see {0}.log", self.name))
    }

    /// The id of the program's process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the program has ended by itself.
    fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().with_context(|| format!("check whether {} has ended", self.name))?.is_some())
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if !matches!(command::wait(&mut self.child, STOP_LIMIT), Ok(Some(_))) {
            eprintln!("{} did not end within {STOP_LIMIT:?} and is killed", self.name);
            let _ended = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// Reads the lines of `stdout` in a thread, so that waiting for a line can have a time limit.
fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, lines) = sync_channel(WAITING_LINES);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line.trim().to_owned()).is_err() {
                return;
            }
        }
    });
    lines
}

/// The settings of a [`Stack`].
pub struct StackSetup<'a> {
    /// Address on which the dispatcher listens; with port 0 the system picks a port.
    pub listen: &'a str,
    /// Folder of the logs and of the discovery file.
    pub folder: PathBuf,
    /// The program that scales.
    pub program: ScalerProgram,
    /// Flags of the scaler, in addition to the flags that connect it with the dispatcher.
    pub scaler: Vec<String>,
}

/// A program that decides how many replicas run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScalerProgram {
    /// `scaler`, which has the laws for production.
    Scaler,
    /// `lab run`, which has the other laws.
    Lab,
}

/// A running system: a dispatcher, a scaler and its replicas. Dropping it stops first the scaler, which stops its
/// replicas, and then the dispatcher.
pub struct Stack {
    /// The scaler, which starts and stops replicas.
    pub scaler: ServiceProcess,
    /// The dispatcher, which accepts requests.
    pub dispatcher: ServiceProcess,
    /// The share of the processor that each replica gets, in words.
    pub share: String,
    program: ScalerProgram,
    folder: PathBuf,
    /// The lock on the folder, whose files a second system would overwrite. The kernel releases it when this process
    /// ends.
    lock: File,
}

impl Stack {
    /// Starts a system and waits until its first replica is in rotation.
    ///
    /// # Errors
    /// If another system uses the folder, a program does not start, or no replica is ready within 60 s.
    pub fn start(setup: StackSetup<'_>) -> Result<Self> {
        let StackSetup { listen, folder, program, scaler } = setup;
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let lock = folder.join("lock");
        let lock_file = File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
        if lock_file.try_lock().is_err() {
            bail!("another running system uses {}; end it first", folder.display());
        }
        let discovery_file = discovery_file(&folder);
        fs::write(&discovery_file, "").with_context(|| format!("write {}", discovery_file.display()))?;
        let flags = [format!("--listen={listen}"), format!("--replicas=file:{}", discovery_file.display())];
        let dispatcher = ServiceProcess::start("dispatcher", &flags, &folder)?;
        let (scaler, share) = start_scaler(program, &folder, &dispatcher.address, &scaler)?;
        let stack = Self { scaler, dispatcher, share, program, folder, lock: lock_file };
        stack.wait_until_ready()?;
        Ok(stack)
    }

    /// Stops the scaler and its replicas, and starts another scaler with `flags`. The dispatcher keeps running.
    ///
    /// # Errors
    /// If the scaler does not start or no replica is ready within 60 s.
    pub fn rescale(self, flags: Vec<String>) -> Result<Self> {
        let Self { scaler, dispatcher, program, folder, lock, .. } = self;
        drop(scaler);
        let (scaler, share) = start_scaler(program, &folder, &dispatcher.address, &flags)?;
        let stack = Self { scaler, dispatcher, share, program, folder, lock };
        stack.wait_until_ready()?;
        Ok(stack)
    }

    /// Waits until the dispatcher or the scaler ends by itself, and returns its name.
    ///
    /// # Errors
    /// If the system cannot tell whether a program has ended.
    pub fn wait(&mut self) -> Result<&'static str> {
        loop {
            for service in [&mut self.dispatcher, &mut self.scaler] {
                if service.has_ended()? {
                    return Ok(service.name);
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The JSON of `/status` of the dispatcher or the scaler.
    ///
    /// # Errors
    /// If the service does not answer.
    pub fn status(service: &ServiceProcess) -> Result<Value> {
        let url = format!("http://{}/status", service.address);
        serde_json::from_str(&http::get(&url)?).with_context(|| format!("read the answer of {url}"))
    }

    /// Addresses of the replicas that are ready.
    ///
    /// # Errors
    /// If the dispatcher does not answer.
    pub fn ready_replicas(&self) -> Result<Vec<String>> {
        let status = Self::status(&self.dispatcher)?;
        let replicas = status["replicas"].as_array().into_iter().flatten();
        let ready = replicas.filter(|replica| replica["state"] == "ready");
        Ok(ready.filter_map(|replica| replica["address"].as_str().map(str::to_owned)).collect())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let spinner = ProgressBar::new_spinner().with_message("waiting for the first replica");
        let deadline = Instant::now() + START_LIMIT;
        while self.ready_replicas()?.is_empty() {
            if Instant::now() > deadline {
                let log = self.folder.join("scaler.log");
                bail!("no replica became ready within {START_LIMIT:?}; see {}", log.display());
            }
            spinner.tick();
            std::thread::sleep(Duration::from_millis(50));
        }
        spinner.finish_and_clear();
        Ok(())
    }
}

/// The file in which the scaler lists the replicas' addresses for the dispatcher.
fn discovery_file(folder: &Path) -> PathBuf {
    folder.join("replicas")
}

/// Starts a scaler. Returns it, and the share of the processor that each replica gets, in words.
fn start_scaler(
    program: ScalerProgram,
    folder: &Path,
    dispatcher: &str,
    flags: &[String],
) -> Result<(ServiceProcess, String)> {
    let connection = [
        format!("--dispatcher={dispatcher}"),
        format!("--list={}", discovery_file(folder).display()),
        "--target=processes".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
    ];
    let mut command = match program {
        ScalerProgram::Scaler => Command::new(paths::program("scaler")),
        ScalerProgram::Lab => {
            let mut lab = Command::new(paths::program("lab"));
            lab.arg("run");
            lab
        }
    };
    command.arg("--exit-with-parent").args(connection).args(flags);
    let mut scaler = ServiceProcess::spawn("scaler", command, folder)?;
    let line = scaler.line()?;
    let share = line.strip_prefix("cpu share: ").unwrap_or(&line).to_owned();
    Ok((scaler, share))
}
