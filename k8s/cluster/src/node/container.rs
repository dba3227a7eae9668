//! A container: a process of a program of the workspace, in the pod's network, under a host name, a user, limits and a
//! view of the file system of its own.

use super::plan::Plan;
use crate::network::{self, Sandbox};
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use rustix::process::{Pid, Signal, kill_process};
use scaler::target::cgroup::Group;
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};

/// Waits until it is in its control group, makes the image its whole view of the file system, and becomes the program. The
/// one capability that is left is what it takes to enter the image.
const BECOME: &str = r#"
read -r _begin
echo "$POD" > /proc/sys/kernel/hostname
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/image
mount --bind "$IMAGE" /run/image
for kernel in proc sys dev; do mount --rbind "/$kernel" "/run/image/$kernel"; done
mount -t tmpfs -o mode=755 tmpfs /run/image/var/run
if [ -d "$FILES/secrets" ]; then
    cp -R "$FILES/secrets" /run/image/var/run
    chmod -R a+rX /run/image/var/run/secrets
fi
mount -o remount,ro /run/image/var/run
mount --bind "$FILES/resolv.conf" /run/image/etc/resolv.conf
if [ "$READ_ONLY" = true ]; then mount -o remount,bind,ro /run/image; fi
exec setpriv --pdeathsig=KILL --reuid="$USER_ID" --regid="$GROUP_ID" --clear-groups --no-new-privs \
    --bounding-set=-all,+sys_chroot --inh-caps=-all,+sys_chroot --ambient-caps=-all,+sys_chroot \
    env -i "$@"
"#;

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
    /// Its root file system.
    pub image: PathBuf,
    /// To the cluster.
    pub access: Access,
    /// Its limits, if it has any.
    pub group: Option<Group>,
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
        let Place { sandbox, image, access, group, log } = place;
        let (namespace, name) = (pod.metadata.namespace.as_deref().unwrap_or_default(), pod.metadata.name.as_deref());
        let (arguments, variables) = plan.resolve(pod, sandbox.address, network::NODE)?;
        let files = tempfile::tempdir_in(log.parent().context("a log is in a folder")?)?;
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
        let log = File::options().create(true).append(true).open(log).context("open the container's log")?;
        let [first, rest @ ..] = sandbox.enter();
        let mut command = Command::new(first);
        command.args(rest).args(["unshare", "--uts", "sh", "-euc", BECOME, "sh"]);
        let (host, port) = &access.server;
        command.args([format!("KUBERNETES_SERVICE_HOST={host}"), format!("KUBERNETES_SERVICE_PORT={port}")]);
        command.arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(variables.iter().map(|(name, value)| format!("{name}={value}")));
        command.args(["chroot", "/run/image", &format!("/usr/bin/{}", plan.program)]).args(arguments);
        command.env("POD", name.unwrap_or_default()).env("IMAGE", image).env("FILES", files.path());
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
