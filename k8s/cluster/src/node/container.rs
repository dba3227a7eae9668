//! A container: a process of a program of the workspace. It has its own host name, user, limits and view of the file
//! system, and is in the network of its pod.

use super::container_config::{ContainerConfig, ProcessInput};
use crate::network::{IpFamily, Sandbox};
use anyhow::{Context, Result};
use cgroup::Group;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};

/// The shell script that starts a container. It waits for a line on standard input, which is sent when the shell is in
/// its control group. It mounts the container image and becomes the program, which has no other file system than the
/// image. Of all capabilities, it keeps `sys_chroot` alone, which `chroot` needs.
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

/// The access of a container's program to the API server.
pub(super) struct ApiAccess {
    /// The address and port of the API server's Service.
    pub server: SocketAddr,
    /// The token and the certificate; `None` if the container gets no token.
    pub credentials: Option<Credentials>,
}

/// The contents of the files that a container finds below `/var/run/secrets`.
pub(super) struct Credentials {
    /// The token of the pod's ServiceAccount.
    pub token: String,
    /// The API server's certificate as PEM.
    pub certificate: String,
}

/// The network, file system, limits and log of a container.
pub(super) struct ContainerPlacement<'a> {
    /// The network of the container's pod.
    pub sandbox: &'a Sandbox,
    /// The folder of the container image.
    pub image: PathBuf,
    /// The container's access to the API server.
    pub access: ApiAccess,
    /// The container's control group; `None` if the container has no limits.
    pub group: Option<Group>,
    /// The path of the file to which the container's output is appended.
    pub log: PathBuf,
}

/// A running container, which is killed when this value is dropped.
pub(super) struct Container {
    child: Child,
    /// The id of the container's process.
    pid: Pid,
    /// The container's control group; `None` if the container has no limits.
    group: Option<Group>,
    /// The folder of [`write_files`], which is removed after the process has ended.
    _files: tempfile::TempDir,
}

/// How a container ended, in the terms of the Kubernetes API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Termination {
    /// The exit code, or 128 plus the number of the signal that ended the process, as in shells.
    pub code: i32,
    /// The reason: `Completed`, `Error` or `OOMKilled`.
    pub reason: &'static str,
}

impl Container {
    /// Starts the container of `pod`.
    ///
    /// # Errors
    /// If a variable refers to a field that this node does not know, or the system refuses to start the process.
    pub(super) fn start(config: &ContainerConfig, pod: &Pod, placement: ContainerPlacement<'_>) -> Result<Self> {
        let input = config.resolve(pod, placement.sandbox.address, placement.sandbox.family.node_address())?;
        let log_folder = placement.log.parent().expect("the log is in the folder of the pods' logs");
        let files = tempfile::tempdir_in(log_folder)
            .with_context(|| format!("create a temporary folder in {}", log_folder.display()))?;
        let namespace = pod.namespace().unwrap_or_default();
        write_files(files.path(), placement.sandbox.family, &namespace, placement.access.credentials.as_ref())
            .with_context(|| format!("write to {}", files.path().display()))?;
        let mut child =
            command(config, pod, &input, &placement, files.path())?.spawn().context("start the container's process")?;
        let id = child.id().expect("the process was not waited for");
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw).expect("Linux's process ids are positive i32");
        if let Some(group) = &placement.group {
            group.add(id).context("move the container's process into its control group")?;
        }
        let begin = "write to the standard input of the container's process";
        let stdin = child.stdin.take().expect("standard input is piped").into_owned_fd().context(begin)?;
        File::from(stdin).write_all(b"begin\n").context(begin)?;
        Ok(Self { child, pid, group: placement.group, _files: files })
    }

    /// The id of the container's process.
    pub(super) fn id(&self) -> Pid {
        self.pid
    }

    /// Sends a signal to the container's process.
    pub(super) fn signal(&self, signal: Signal) {
        // The process may have ended already.
        let _ = kill_process(self.pid, signal);
    }

    /// Waits for the end of the container's process. Returns its exit status.
    ///
    /// # Errors
    /// If the system does not report the exit status.
    pub(super) async fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().await.context("wait for the container's process")
    }

    /// How the container ended, if the exit status of its process is `status`.
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

/// Writes the files that the container finds in its file system, but that are not in its image.
fn write_files(folder: &Path, family: IpFamily, namespace: &str, credentials: Option<&Credentials>) -> std::io::Result<()> {
    let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
    let resolver = format!("nameserver {}\nsearch {search}\noptions ndots:5\n", family.dns_address());
    fs::write(folder.join("resolv.conf"), resolver)?;
    let Some(Credentials { token, certificate }) = credentials else { return Ok(()) };
    let secrets = folder.join("secrets/kubernetes.io/serviceaccount");
    fs::create_dir_all(&secrets)?;
    for (name, text) in [("token", token.as_str()), ("ca.crt", certificate), ("namespace", namespace)] {
        fs::write(secrets.join(name), text)?;
    }
    Ok(())
}

/// The command that starts the container's process. `files` is the folder of [`write_files`].
fn command(
    config: &ContainerConfig,
    pod: &Pod,
    input: &ProcessInput,
    placement: &ContainerPlacement<'_>,
    files: &Path,
) -> Result<Command> {
    let log = File::options().create(true).append(true).open(&placement.log);
    let opened = || format!("open {}", placement.log.display());
    let log = log.with_context(opened)?;
    let [first, rest @ ..] = placement.sandbox.command_prefix();
    let mut command = Command::new(first);
    command.args(rest).args(["unshare", "--uts", "sh", "-euc", ENTRY_SCRIPT, "sh"]);
    let (host, port) = (placement.access.server.ip(), placement.access.server.port());
    command.args([format!("KUBERNETES_SERVICE_HOST={host}"), format!("KUBERNETES_SERVICE_PORT={port}")]);
    command.arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(input.variables.iter().map(|(name, value)| format!("{name}={value}")));
    command.args(["chroot", "/run/image", &format!("/usr/bin/{}", config.program)]).args(&input.arguments);
    command.env("POD", pod.name_any()).env("IMAGE", &placement.image).env("FILES", files);
    command.env("READ_ONLY", config.is_read_only.to_string());
    command.env("USER_ID", config.user.to_string()).env("GROUP_ID", config.group.to_string());
    command.stdin(Stdio::piped()).stdout(log.try_clone().with_context(opened)?);
    command.stderr(log).kill_on_drop(true);
    Ok(command)
}
