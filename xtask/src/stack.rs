//! The whole system on this machine: a dispatcher, a scaler, and the replicas that the scaler runs.

use crate::paths;
use anyhow::{Context, Result, bail, ensure};
use indicatif::ProgressBar;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// For everything to be ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// For a program to drain and exit, beyond what its own grace is.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// A program that ends with this one, or when dropped: it exits when its standard input closes.
pub struct Service {
    name: &'static str,
    child: Child,
    /// What it has still to say on standard output; kept open so that it can.
    stdout: BufReader<ChildStdout>,
    /// `host:port` on loopback.
    pub address: String,
}

impl Service {
    /// Starts a program of the workspace; its log goes to `logs/NAME.log`.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start(name: &'static str, arguments: &[String], logs: &Path) -> Result<Self> {
        let mut command = Command::new(paths::program(name));
        command.arg("--exit-with-parent").args(arguments);
        Self::spawn(name, command, logs)
    }

    /// Starts whatever prints its address first and ends when its standard input closes.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn spawn(name: &'static str, mut command: Command, logs: &Path) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let stderr = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // A Ctrl-C at the terminal reaches this program alone; the others then drain in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        let mut stdout = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            child.kill()?;
            child.wait()?;
            bail!("{name} did not start; it said:\n{}", fs::read_to_string(&log).unwrap_or_default());
        };
        let address = address.replace("0.0.0.0", "127.0.0.1");
        Ok(Self { name, child, stdout, address })
    }

    /// The next line on standard output.
    ///
    /// # Errors
    /// When there is none.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(!line.is_empty(), "{} stopped", self.name);
        Ok(line.trim().to_owned())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    fn has_ended(&mut self) -> Result<bool> {
        // Not `Child::wait`, which closes standard input and so asks it to stop.
        Ok(self.child.try_wait()?.is_some())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                eprintln!("{} does not stop; killing it", self.name);
                let _ended = self.child.kill();
                let _reaped = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How the stack is set up.
pub struct Setup {
    /// The dispatcher's address; port 0 for any.
    pub listen: &'static str,
    /// Logs and the discovery file.
    pub folder: PathBuf,
    /// The program that scales.
    pub program: ScalerProgram,
    /// Flags of the scaler, beyond those that connect it.
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

/// Both running; dropping it stops the scaler, and so the replicas, first.
pub struct Stack {
    /// Runs the replicas.
    pub scaler: Service,
    /// Takes pictures.
    pub dispatcher: Service,
    /// What each replica gets of the processor, in words.
    pub share: String,
    setup: Setup,
    /// On the folder, whose files a second stack would overwrite; released by the system when this process ends.
    lock: File,
}

impl Stack {
    /// Starts everything and waits until the first replica is in rotation.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(setup: Setup) -> Result<Self> {
        fs::create_dir_all(&setup.folder).with_context(|| format!("create {}", setup.folder.display()))?;
        let lock = setup.folder.join("lock");
        let lock_file = File::create(&lock).with_context(|| format!("create {}", lock.display()))?;
        if lock_file.try_lock().is_err() {
            bail!("another one like this is running, and uses {}; end it first", setup.folder.display());
        }
        let list = setup.list();
        fs::write(&list, "").with_context(|| format!("write {}", list.display()))?;
        let flags = [format!("--listen={}", setup.listen), format!("--replicas=file:{}", list.display())];
        let dispatcher = Service::start("dispatcher", &flags, &setup.folder)?;
        let (scaler, share) = start_scaler(&setup, &dispatcher.address)?;
        let stack = Self { scaler, dispatcher, share, setup, lock: lock_file };
        stack.wait_until_ready()?;
        Ok(stack)
    }

    /// Ends the scaler and its replicas and starts another with other flags; the dispatcher goes on.
    ///
    /// # Errors
    /// When it does not start.
    pub fn rescale(self, flags: Vec<String>) -> Result<Self> {
        let Self { scaler, dispatcher, mut setup, lock, .. } = self;
        drop(scaler);
        setup.scaler = flags;
        let (scaler, share) = start_scaler(&setup, &dispatcher.address)?;
        let stack = Self { scaler, dispatcher, share, setup, lock };
        stack.wait_until_ready()?;
        Ok(stack)
    }

    /// Waits until either has ended by itself, and names it.
    ///
    /// # Errors
    /// When the system cannot tell.
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

    /// `/status` of either service.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(service: &Service) -> Result<Value> {
        let url = format!("http://{}/status", service.address);
        let text = ureq::get(&url).call().with_context(|| format!("get {url}"))?.body_mut().read_to_string()?;
        serde_json::from_str(&text).with_context(|| format!("read the answer of {url}"))
    }

    /// Addresses of the replicas in rotation.
    ///
    /// # Errors
    /// When the dispatcher does not answer.
    pub fn ready_replicas(&self) -> Result<Vec<String>> {
        let status = Self::status(&self.dispatcher)?;
        let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
        let ready = replicas.iter().filter(|replica| replica["state"] == "ready");
        Ok(ready.filter_map(|replica| replica["address"].as_str().map(str::to_owned)).collect())
    }

    fn wait_until_ready(&self) -> Result<()> {
        let spinner = ProgressBar::new_spinner().with_message("waiting for the first replica");
        let deadline = Instant::now() + START_TIMEOUT;
        while self.ready_replicas()?.is_empty() {
            if Instant::now() > deadline {
                bail!(
                    "no replica became ready within {START_TIMEOUT:?}; see {}",
                    self.setup.folder.join("scaler.log").display()
                );
            }
            spinner.tick();
            std::thread::sleep(Duration::from_millis(50));
        }
        spinner.finish_and_clear();
        Ok(())
    }
}

impl Setup {
    fn list(&self) -> PathBuf {
        self.folder.join("replicas")
    }
}

fn start_scaler(setup: &Setup, dispatcher: &str) -> Result<(Service, String)> {
    let mut flags = vec![
        format!("--dispatcher={dispatcher}"),
        format!("--list={}", setup.list().display()),
        "--target=processes".to_owned(),
        "--listen=127.0.0.1:0".to_owned(),
    ];
    flags.extend_from_slice(&setup.scaler);
    let mut command = match setup.program {
        ScalerProgram::Scaler => Command::new(paths::program("scaler")),
        ScalerProgram::Lab => {
            let mut lab = Command::new(paths::program("lab"));
            lab.arg("run");
            lab
        }
    };
    command.arg("--exit-with-parent").args(&flags);
    let mut scaler = Service::spawn("scaler", command, &setup.folder)?;
    let line = scaler.line()?;
    let share = line.strip_prefix("cpu share: ").unwrap_or(&line).to_owned();
    Ok((scaler, share))
}
