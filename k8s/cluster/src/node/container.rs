//! A container: a process of a program of the workspace, with a host name, a user, limits and a view of the file system
//! of its own, in the network of its pod.

use super::container_config::{ContainerConfig, ProcessInput};
use crate::network::{self, Sandbox};
use anyhow::{Context, Result};
use cgroup::Group;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};

/// Waits for a line on standard input, which comes when the shell is in its control group; makes the image the whole
/// file system; and becomes the program. `sys_chroot` is the one capability that is left, since `chroot` needs it.
const ENTRY_SCRIPT: &str = r#"
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

/// The means by which a container's program uses the API server.
pub(super) struct ApiAccess {
    /// The address and port of the API server's Service.
    pub server: (Ipv4Addr, u16),
    /// Token and certificate; `None` if the container gets no token.
    pub credentials: Option<Credentials>,
}

/// The files that a container finds below `/var/run/secrets`.
pub(super) struct Credentials {
    /// The token of the pod's ServiceAccount.
    pub token: String,
    /// The API server's certificate as PEM.
    pub certificate: String,
}

/// Where a container runs.
pub(super) struct ContainerPlacement<'a> {
    /// The network of the container's pod.
    pub sandbox: &'a Sandbox,
    /// The folder with the container's image.
    pub image: PathBuf,
    /// The container's access to the API server.
    pub access: ApiAccess,
    /// The container's control group; `None` if the container has no limits.
    pub group: Option<Group>,
    /// The file that the container's output is appended to.
    pub log: PathBuf,
}

/// A running container, killed when dropped.
pub(super) struct Container {
    child: Child,
    pid: Pid,
    group: Option<Group>,
    /// Removed after the process has ended.
    _files: tempfile::TempDir,
}

/// How a container ended, in the API's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Termination {
    /// The exit code, or 128 and the signal, as shells have it.
    pub code: i32,
    /// `Completed`, `Error` or `OOMKilled`.
    pub reason: &'static str,
}

impl Container {
    /// Starts the container of `pod`.
    ///
    /// # Errors
    /// If the specification names an unknown field, or the system refuses.
    pub(super) fn start(config: &ContainerConfig, pod: &Pod, placement: ContainerPlacement<'_>) -> Result<Self> {
        let input = config.resolve(pod, placement.sandbox.address, network::NODE_ADDRESS)?;
        let log_folder = placement.log.parent().context("the path of the log has no folder")?;
        let files = tempfile::tempdir_in(log_folder).with_context(|| format!("write to {}", log_folder.display()))?;
        let namespace = pod.namespace().unwrap_or_default();
        write_files(files.path(), &namespace, placement.access.credentials.as_ref())
            .with_context(|| format!("write to {}", files.path().display()))?;
        let mut child =
            command(config, pod, &input, &placement, files.path())?.spawn().context("start the container")?;
        let id = child.id().context("the started process has no id")?;
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).context("the process id is out of range")?;
        if let Some(group) = &placement.group {
            group.add(id).context("put the container into its control group")?;
        }
        let stdin = child.stdin.take().context("the container's standard input is not piped")?;
        File::from(stdin.into_owned_fd()?).write_all(b"begin\n").context("let the container begin")?;
        Ok(Self { child, pid, group: placement.group, _files: files })
    }

    /// The process of the container.
    pub(super) fn id(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to the process.
    pub(super) fn signal(&self, signal: Signal) {
        // The process may have ended already.
        let _ = kill_process(self.pid, signal);
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// If the system cannot tell.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }

    /// How a process of this container with this status ended.
    pub(super) fn termination(&self, status: ExitStatus) -> Termination {
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        let exceeded_memory = self.group.as_ref().is_some_and(|group| group.exceeded_memory().is_some());
        let reason = match code {
            _ if exceeded_memory => "OOMKilled",
            0 => "Completed",
            _ => "Error",
        };
        Termination { code, reason }
    }
}

/// Writes the files that the container finds in its file system but not in its image.
fn write_files(folder: &Path, namespace: &str, credentials: Option<&Credentials>) -> std::io::Result<()> {
    let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
    let resolver = format!("nameserver {}\nsearch {search}\noptions ndots:5\n", network::DNS_ADDRESS);
    fs::write(folder.join("resolv.conf"), resolver)?;
    let Some(Credentials { token, certificate }) = credentials else { return Ok(()) };
    let secrets = folder.join("secrets/kubernetes.io/serviceaccount");
    fs::create_dir_all(&secrets)?;
    for (name, text) in [("token", token.as_str()), ("ca.crt", certificate), ("namespace", namespace)] {
        fs::write(secrets.join(name), text)?;
    }
    Ok(())
}

/// The command that becomes the container. `files` is the folder of [`write_files`].
fn command(
    config: &ContainerConfig,
    pod: &Pod,
    input: &ProcessInput,
    placement: &ContainerPlacement<'_>,
    files: &Path,
) -> Result<Command> {
    let log = File::options().create(true).append(true).open(&placement.log);
    let log = log.with_context(|| format!("open {}", placement.log.display()))?;
    let [first, rest @ ..] = placement.sandbox.command_prefix();
    let mut command = Command::new(first);
    command.args(rest).args(["unshare", "--uts", "sh", "-euc", ENTRY_SCRIPT, "sh"]);
    let (host, port) = placement.access.server;
    command.args([format!("KUBERNETES_SERVICE_HOST={host}"), format!("KUBERNETES_SERVICE_PORT={port}")]);
    command.arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(input.variables.iter().map(|(name, value)| format!("{name}={value}")));
    command.args(["chroot", "/run/image", &format!("/usr/bin/{}", config.program)]).args(&input.arguments);
    command.env("POD", pod.name_any()).env("IMAGE", &placement.image).env("FILES", files);
    command.env("READ_ONLY", config.is_read_only.to_string());
    command.env("USER_ID", config.user.to_string()).env("GROUP_ID", config.group.to_string());
    command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    Ok(command)
}
