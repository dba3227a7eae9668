//! A container: a process of a program of the workspace, in the pod's network, under a host name, a user, limits and a
//! view of the file system of its own.

use super::plan::Plan;
use crate::network::{self, Sandbox};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use rustix::process::{Pid, Signal, kill_process};
use scaler::target::cgroup::{Controller, Group, Limits};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};

/// Waits until it is in its control group, makes its own view of the file system, and becomes the program. What an image
/// would hold lies under /run.
const BECOME: &str = r#"
read -r _begin
echo "$POD" > /proc/sys/kernel/hostname
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/image/libraries /run/secrets
touch "/run/image/$PROGRAM"
mount --bind "$PROGRAMS/$PROGRAM" "/run/image/$PROGRAM"
if [ -d "$LIBRARIES" ]; then mount --bind "$LIBRARIES" /run/image/libraries; fi
if [ -d "$FILES/secrets" ]; then cp -R "$FILES/secrets/." /run/secrets; chmod -R a+rX /run/secrets; fi
mount --bind "$FILES/resolv.conf" /etc/resolv.conf
mount -o remount,ro /run
if [ "$READ_ONLY" = true ]; then mount -o remount,bind,ro /; fi
cd /
exec setpriv --pdeathsig=KILL --reuid="$USER_ID" --regid="$GROUP_ID" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all --ambient-caps=-all -- "$@"
"#;

/// Where the programs are, and what they need.
#[derive(Debug, Clone)]
pub struct Images {
    /// The folder of programs.
    pub programs: PathBuf,
    /// The folder of libtorch's libraries.
    pub libraries: PathBuf,
}

/// What a pod may know of the cluster.
pub(super) struct Access {
    /// Its token, and the API server's certificate.
    pub secrets: Option<(String, String)>,
    /// The API server's address for pods.
    pub server: (Ipv4Addr, u16),
}

/// Where a container is to run.
pub(super) struct Place<'a> {
    /// Its network.
    pub sandbox: &'a Sandbox,
    /// What there is to run.
    pub images: &'a Images,
    /// To the cluster.
    pub access: Access,
    /// What one of the node's cores is of one of this machine's.
    pub share: f64,
    /// What it prints goes there.
    pub log: PathBuf,
}

/// A running one; killed when dropped.
pub(super) struct Container {
    child: Child,
    pid: Pid,
    group: Option<Group>,
    _files: tempfile::TempDir,
}

impl Container {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no such program, or the system refuses.
    pub(super) fn start(plan: &Plan, pod: &Pod, place: Place<'_>) -> Result<Self> {
        let Place { sandbox, images, access, share, log } = place;
        let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref());
        let (arguments, variables) = plan.resolve(pod, sandbox.address, network::NODE)?;
        let files = tempfile::tempdir()?;
        let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
        let resolver = format!("nameserver {}\nsearch {search}\noptions ndots:5\n", network::RESOLVER);
        fs::write(files.path().join("resolv.conf"), resolver)?;
        if let Some((token, authority)) = &access.secrets {
            let folder = files.path().join("secrets/kubernetes.io/serviceaccount");
            fs::create_dir_all(&folder)?;
            for (name, text) in [("token", token.as_str()), ("ca.crt", authority), ("namespace", namespace)] {
                fs::write(folder.join(name), text)?;
            }
        }
        let limits = Limits { cores: plan.limits.cores.map(|cores| cores * share), memory: plan.limits.memory };
        let group = if limits == Limits::default() { None } else { Some(Controller::find(limits)?.group()?) };
        let log = File::options().create(true).append(true).open(log).context("open the container's log")?;
        let [first, rest @ ..] = sandbox.enter();
        let mut command = Command::new(first);
        command.args(rest).args(["unshare", "--uts", "sh", "-euc", BECOME, "sh", "env", "-i"]);
        let (host, port) = &access.server;
        command.args([format!("KUBERNETES_SERVICE_HOST={host}"), format!("KUBERNETES_SERVICE_PORT={port}")]);
        command.args(["PATH=/usr/bin:/bin", "LD_LIBRARY_PATH=/run/image/libraries"]);
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(format!("/run/image/{}", plan.program)).args(arguments);
        command.env("POD", name.unwrap_or_default()).env("PROGRAM", &plan.program);
        command.env("PROGRAMS", &images.programs).env("LIBRARIES", &images.libraries).env("FILES", files.path());
        command.env("READ_ONLY", plan.is_read_only.to_string());
        command.env("USER_ID", plan.user.to_string()).env("GROUP_ID", plan.group.to_string());
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().context("start the container")?;
        let id = child.id().context("it has just been started")?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("a process has an id")?;
        if let Some(group) = &group {
            group.add(id).context("put the container into its control group")?;
        }
        let input = child.stdin.take().context("standard input is piped")?;
        let mut input = std::fs::File::from(input.into_owned_fd()?);
        input.write_all(b"begin\n")?;
        Ok(Self { child, pid, group, _files: files })
    }

    /// Its process.
    pub(super) fn id(&self) -> Pid {
        self.pid
    }

    /// Asks it to end, or ends it. One that has ended already is no fault.
    pub(super) fn signal(&self, signal: Signal) {
        let _gone = kill_process(self.pid, signal);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// The end in the API's words: the exit code as a shell would tell it, and a reason.
    pub(super) fn end(&self, status: ExitStatus) -> (i32, &'static str) {
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        let was_too_big = self.group.as_ref().is_some_and(|group| group.exceeded_memory().is_some());
        (
            code,
            if was_too_big {
                "OOMKilled"
            } else if code == 0 {
                "Completed"
            } else {
                "Error"
            },
        )
    }
}

impl Images {
    /// Whether there is such a program.
    ///
    /// # Errors
    /// When there is not, in words for whoever wrote the pod.
    pub(super) fn check(&self, program: &str) -> Result<()> {
        let path = self.programs.join(program);
        ensure!(path.is_file(), "the node has no image {program:?}: there is no {}", path.display());
        Ok(())
    }
}
