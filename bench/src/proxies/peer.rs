//! A reverse proxy with which the dispatcher is compared, in front of one upstream.

use super::tool::{self, Tool};
use anyhow::{Context, Result, bail};
use harness::http;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time in which a proxy must give its first answer.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// Time in which a proxy must end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two checks of a starting or stopping proxy.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running proxy, which is stopped when this value is dropped.
pub(crate) struct Peer {
    tool: Tool,
    child: Child,
    /// The proxy's address on loopback, `host:port`.
    pub(crate) address: String,
}

impl Peer {
    /// Starts NGINX with `bench/peers/nginx.conf`. Its files go to `folder`.
    ///
    /// # Errors
    /// If NGINX is not installed or does not answer.
    pub(crate) fn nginx(upstream: SocketAddr, folder: &Path) -> Result<Self> {
        let template = include_str!("../../peers/nginx.conf");
        Self::start(tool::NGINX, "nginx", template, upstream, folder, |command, config| {
            command.args(["-e", "stderr", "-p"]).arg(folder).arg("-c").arg(config);
        })
    }

    /// Starts HAProxy with `bench/peers/haproxy.cfg`. Its files go to `folder`.
    ///
    /// # Errors
    /// If HAProxy is not installed or does not answer.
    pub(crate) fn haproxy(upstream: SocketAddr, folder: &Path) -> Result<Self> {
        Self::start_haproxy("haproxy", include_str!("../../peers/haproxy.cfg"), upstream, folder)
    }

    /// Starts HAProxy with `bench/peers/haproxy.cfg` and a queue: the upstream gets `slots` requests at once, and the
    /// others wait for the dispatcher's default deadline at most. Its files go to `folder`.
    ///
    /// # Errors
    /// If HAProxy is not installed or does not answer.
    pub(crate) fn haproxy_with_queue(upstream: SocketAddr, slots: u32, folder: &Path) -> Result<Self> {
        let server = format!("    timeout queue 5s\n    server stub @UPSTREAM@ maxconn {slots}");
        let template = include_str!("../../peers/haproxy.cfg").replace("    server stub @UPSTREAM@", &server);
        Self::start_haproxy("haproxy-queue", &template, upstream, folder)
    }

    fn start_haproxy(name: &str, template: &str, upstream: SocketAddr, folder: &Path) -> Result<Self> {
        Self::start(tool::HAPROXY, name, template, upstream, folder, |command, config| {
            // -db keeps HAProxy in the foreground.
            command.args(["-db", "-f"]).arg(config);
        })
    }

    /// The id of the proxy's first process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Starts `tool`. The names of its files begin with `name`.
    fn start(
        tool: Tool,
        name: &str,
        template: &str,
        upstream: SocketAddr,
        folder: &Path,
        add_flags: impl FnOnce(&mut Command, &Path),
    ) -> Result<Self> {
        let file = |extension: &str| folder.join(name).with_extension(extension);
        let (config, log) = (file("conf"), file("log"));
        let address = free_address()?;
        let text = template.replace("@LISTEN@", &address).replace("@UPSTREAM@", &upstream.to_string());
        fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = tool.command()?;
        add_flags(&mut command, &config);
        let stdout = output.try_clone().with_context(|| format!("open {} a second time", log.display()))?;
        command.stdin(Stdio::null()).stdout(stdout).stderr(output);
        let child = command.spawn().with_context(|| format!("start {}", tool.program))?;
        let mut peer = Self { tool, child, address };
        peer.wait_until_it_answers(&log)?;
        Ok(peer)
    }

    fn wait_until_it_answers(&mut self, log: &Path) -> Result<()> {
        let url = format!("http://{}/predict", self.address);
        let agent = http::agent();
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let problem = match agent.post(&url).content_type("image/jpeg").send(&b"x"[..]) {
                Ok(answer) if answer.status() == 200 => return Ok(()),
                Ok(answer) => format!("it answered {}", answer.status()),
                Err(error) => error.to_string(),
            };
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(log).unwrap_or_default();
                bail!("{} does not serve {url} ({problem}); its log says:\n{log}", self.tool.program);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // NGINX's master ends its worker after SIGTERM, but not if the master is killed. An error of `kill_process`
        // means that the proxy has ended already.
        let _ended = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                eprintln!(
                    "{} still runs {STOP_TIMEOUT:?} after SIGTERM; killing its process {}; workers may be left behind",
                    self.tool.program,
                    self.child.id()
                );
                let _ended = self.child.kill();
                let _reaped = self.child.wait();
                return;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// An address on loopback whose port is free now. NGINX and HAProxy cannot report a port that they pick themselves, so
/// they get one.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("find a free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.to_string())
}
