//! A reverse proxy of someone else's, in front of one upstream, until it is dropped.

use super::tool::{self, Tool};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// For its end, once told.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running proxy.
pub struct Peer {
    tool: Tool,
    child: Child,
    /// `host:port` on loopback.
    pub address: String,
}

impl Peer {
    /// NGINX by `nginx.conf`; its files go to `folder`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn nginx(upstream: &str, folder: &Path) -> Result<Self> {
        Self::start(tool::NGINX, include_str!("nginx.conf"), upstream, folder, |command, config| {
            command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(config);
        })
    }

    /// HAProxy by `haproxy.cfg`; its files go to `folder`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn haproxy(upstream: &str, folder: &Path) -> Result<Self> {
        Self::start(tool::HAPROXY, include_str!("haproxy.cfg"), upstream, folder, |command, config| {
            // In the foreground.
            command.args(["-db", "-f"]).arg(config);
        })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn start(
        tool: Tool,
        template: &str,
        upstream: &str,
        folder: &Path,
        flags: impl FnOnce(&mut Command, &Path),
    ) -> Result<Self> {
        let file = |extension: &str| folder.join(tool.program).with_extension(extension);
        let (config, log) = (file("conf"), file("log"));
        let address = free_address()?;
        let text = template.replace("@LISTEN@", &address).replace("@UPSTREAM@", upstream);
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = tool.command()?;
        flags(&mut command, &config);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("start {}", tool.program))?;
        let mut peer = Self { tool, child, address };
        peer.wait_until_it_answers(&log)?;
        Ok(peer)
    }

    fn wait_until_it_answers(&mut self, log: &PathBuf) -> Result<()> {
        let url = format!("http://{}/predict", self.address);
        let deadline = Instant::now() + START_TIMEOUT;
        while let Err(error) = ureq::post(&url).content_type("image/jpeg").send(&b"x"[..]) {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("{} does not serve ({error}); it said:\n{said}", self.tool.program);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Asked, not killed: NGINX's master ends its worker only if it is asked.
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                eprintln!("{} does not stop; killing it", self.tool.program);
                let _ended = self.child.kill();
                let _reaped = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One that nobody listens on now, for programs that cannot tell which one they picked.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(listener.local_addr()?.to_string())
}
