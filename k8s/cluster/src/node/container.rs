//! A container: a process of a program in a container image. It has its own host name, user, limits and view of the file
//! system, and is in the network of its pod.

use super::container_config::{ContainerConfig, ProcessInput};
use super::volume_folder::{self, VolumePaths};
use crate::images::Image;
use crate::network::{IpFamily, Sandbox};
use anyhow::{Context, Result};
use cgroup::Group;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use tokio::process::{Child, Command};

/// The folders of a container's temporary folder: the mount points of the container image, of its changes, and of both as
/// one file system.
const MOUNT_POINTS: [&str; 3] = ["image", "scratch", "root"];

/// Where distributions have `chroot`.
const CHROOT_PATHS: [&str; 3] = ["/usr/sbin/chroot", "/usr/bin/chroot", "/bin/chroot"];

/// The shell script that starts a container. It waits for a line on standard input, which is sent when the shell is in
/// its control group. It mounts the container image and the volumes, and becomes the program, which has no other file
/// system. Of all capabilities, it keeps `sys_chroot` alone, which `chroot` needs.
///
/// The root file system is an overlay: what the container writes goes to a file system in memory, and never to the image.
/// The paths of the overlay are relative, since a path with a comma or a colon would be taken for two.
///
/// Arguments: for each mount its source, its path and `ro` or `rw`; `--`; the command. A program can write to a volume, so
/// a link in a path could have another mount made anywhere on this machine: only the path that `realpath` returns is used.
const ENTRY_SCRIPT: &str = r#"
umask 022
read -r _begin
echo "$POD" > /proc/sys/kernel/hostname
cd "$FILES"
mount --bind "$IMAGE" image
mount -t tmpfs -o mode=755,size=1g tmpfs scratch
mkdir scratch/changes scratch/work
mount -t overlay -o lowerdir=image,upperdir=scratch/changes,workdir=scratch/work overlay root
for kernel in proc sys dev; do
    mkdir -p "root/$kernel"
    mount --rbind "/$kernel" "root/$kernel"
done
mkdir -p root/etc
touch root/etc/resolv.conf
mount --bind resolv.conf root/etc/resolv.conf
root="$(pwd -P)/root"
while [ "$1" != -- ]; do
    source=$1 path=$root$2 mode=$3
    shift 3
    if [ "$(realpath -m -- "$path")" != "$path" ]; then
        echo "cannot mount a volume at ${path#"$root"}: a part of the path is a symbolic link" >&2
        exit 1
    fi
    if [ -d "$source" ]; then
        mkdir -p -- "$path"
    else
        mkdir -p -- "$(dirname -- "$path")"
        [ -e "$path" ] || : > "$path"
    fi
    mount --bind -- "$source" "$path"
    if [ "$mode" = ro ]; then mount -o remount,bind,ro -- "$path"; fi
done
shift
if [ "$READ_ONLY" = true ]; then mount -o remount,bind,ro root; fi
cd root
exec setpriv --pdeathsig=KILL --reuid="$USER_ID" --regid="$GROUP_ID" "$GROUPS_FLAG" --no-new-privs \
    --bounding-set=-all,+sys_chroot --inh-caps=-all,+sys_chroot --ambient-caps=-all,+sys_chroot \
    env -i -- "$@"
"#;

/// The network, file system, limits and log of a container.
pub(super) struct ContainerPlacement<'a> {
    /// The name of the container's pod, which is its host name.
    pub pod: &'a str,
    /// The namespace of the pod.
    pub namespace: &'a str,
    /// The network of the pod.
    pub sandbox: &'a Sandbox,
    /// The container image.
    pub image: Image,
    /// The folders of the pod's volumes.
    pub volumes: &'a VolumePaths,
    /// The address and port of the API server's Service.
    pub api_server: SocketAddr,
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
    /// The container's temporary folder, which is removed after the process has ended.
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
    /// Starts a container.
    ///
    /// # Errors
    /// If a part of a volume is missing, or the system refuses to start the process.
    pub(super) fn start(
        config: &ContainerConfig,
        input: &ProcessInput,
        placement: ContainerPlacement<'_>,
    ) -> Result<Self> {
        let mounts = mounts(config, placement.volumes)?;
        let log_folder = placement.log.parent().expect("the log is in the folder of the pods' logs");
        let files = tempfile::tempdir_in(log_folder)
            .with_context(|| format!("create a temporary folder in {}", log_folder.display()))?;
        write_files(files.path(), IpFamily::of(placement.sandbox.address()), placement.namespace)
            .with_context(|| format!("write to {}", files.path().display()))?;
        let mut command = command(config, input, &placement, mounts, files.path())?;
        let mut child = command.spawn().context("start the container's process")?;
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

/// The arguments of [`ENTRY_SCRIPT`] for the mounts of a container.
fn mounts(config: &ContainerConfig, volumes: &VolumePaths) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    for mount in &config.mounts {
        let folder = volumes.get(&mount.volume).with_context(|| format!("the pod has no volume {}", mount.volume))?;
        let source = match &mount.sub_path {
            Some(part) => volume_folder::sub_path(folder, part, !mount.is_read_only)
                .with_context(|| format!("volume {}", mount.volume))?,
            None => folder.clone(),
        };
        let source = source.to_str().with_context(|| format!("the path {} is no UTF-8", source.display()))?;
        let mode = if mount.is_read_only { "ro" } else { "rw" };
        arguments.extend([source.to_owned(), mount.path.clone(), mode.to_owned()]);
    }
    Ok(arguments)
}

/// Writes the files and mount points that [`ENTRY_SCRIPT`] finds in the container's temporary folder.
fn write_files(folder: &Path, family: IpFamily, namespace: &str) -> std::io::Result<()> {
    let search = format!("{namespace}.svc.cluster.local svc.cluster.local cluster.local");
    let resolver = format!("nameserver {}\nsearch {search}\noptions ndots:5\n", family.dns_address());
    fs::write(folder.join("resolv.conf"), resolver)?;
    MOUNT_POINTS.iter().try_for_each(|name| fs::create_dir(folder.join(name)))
}

/// The command that starts the container's process. `mounts` is the result of [`mounts`], and `files` is the folder of
/// [`write_files`].
fn command(
    config: &ContainerConfig,
    input: &ProcessInput,
    placement: &ContainerPlacement<'_>,
    mounts: Vec<String>,
    files: &Path,
) -> Result<Command> {
    let program = placement.image.program.as_ref();
    let program = program.with_context(|| format!("the container image {} has no program", config.image))?;
    let log = File::options().create(true).append(true).open(&placement.log);
    let opened = || format!("open {}", placement.log.display());
    let log = log.with_context(opened)?;
    let [first, rest @ ..] = placement.sandbox.command_prefix();
    let mut command = Command::new(first);
    command.args(rest).args(["unshare", "--uts", "sh", "-euc", ENTRY_SCRIPT, "sh"]);
    command.args(mounts).arg("--");
    let (host, port) = (placement.api_server.ip(), placement.api_server.port());
    command.args([format!("KUBERNETES_SERVICE_HOST={host}"), format!("KUBERNETES_SERVICE_PORT={port}")]);
    command.arg("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(input.variables.iter().map(|(name, value)| format!("{name}={value}")));
    command.args([chroot()?, ".", &format!("/usr/bin/{program}")]).args(&input.arguments);
    command.env("POD", placement.pod).env("IMAGE", &placement.image.root).env("FILES", files);
    command.env("READ_ONLY", config.is_read_only.to_string());
    command.env("USER_ID", config.user.to_string()).env("GROUP_ID", config.group.to_string());
    let groups: Vec<String> = config.supplemental_groups.iter().map(i64::to_string).collect();
    let flag = if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={}", groups.join(",")) };
    command.env("GROUPS_FLAG", flag);
    command.stdin(Stdio::piped()).stdout(log.try_clone().with_context(opened)?);
    command.stderr(log).kill_on_drop(true);
    Ok(command)
}

/// The path of `chroot`. Its name alone would be looked for in the container's variable `PATH`, which may have any value.
fn chroot() -> Result<&'static str> {
    let found = CHROOT_PATHS.into_iter().find(|path| Path::new(path).is_file());
    found.with_context(|| format!("find chroot at {}", CHROOT_PATHS.join(" or ")))
}
