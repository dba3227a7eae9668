//! Limits the processor time and the memory of child processes by the kernel's control groups, version 1 or 2.

use bytesize::ByteSize;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// The period of a processor limit, in microseconds. In a longer period, a process with half a core would run fast for
/// a long time and then stand still.
const PERIOD_MICROSECONDS: u64 = 20_000;

/// The prefix of the names of groups. The id of the process that made the group, and a number, follow.
const PREFIX: &str = "roundhouse";

/// Limits on the processor time and the memory of all processes of a group together.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ResourceLimits {
    /// The number of cores; `None` if processor time is not limited.
    pub cores: Option<f64>,
    /// The memory; `None` if it is not limited. A process that needs more is killed.
    pub memory: Option<ByteSize>,
}

impl ResourceLimits {
    fn controllers(self) -> impl Iterator<Item = &'static str> {
        [self.cores.map(|_| "cpu"), self.memory.map(|_| "memory")].into_iter().flatten()
    }
}

/// Makes groups, all with the same limits.
#[derive(Debug, Clone)]
pub struct Controller {
    /// The folders in which groups are made. In version 1, each controller has a folder of its own.
    folders: Vec<PathBuf>,
    version: Version,
    limits: ResourceLimits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A control group. Dropping it removes the group, whose processes must have ended by then.
#[derive(Debug)]
pub struct Group {
    folders: Vec<PathBuf>,
    memory: Option<ByteSize>,
}

impl Controller {
    /// Finds the control groups of this process, and checks that groups can be made below them.
    ///
    /// # Errors
    /// If the system has no controller for a limit, or does not permit its use.
    pub fn find(limits: ResourceLimits) -> io::Result<Self> {
        let mounts = read(Path::new("/proc/mounts"))?;
        let own = read(Path::new("/proc/self/cgroup"))?;
        let mut folders = Vec::new();
        let mut versions = Vec::new();
        for controller in limits.controllers() {
            let missing =
                || io::Error::new(io::ErrorKind::Unsupported, format!("the system has no controller {controller}"));
            let (folder, version) = locate(&mounts, &own, controller).ok_or_else(missing)?;
            remove_leftovers(&folder);
            if version == Version::Two {
                let below = if controller == "memory" { Some(move_below(&folder)?) } else { None };
                let permitted = write(&folder.join("cgroup.subtree_control"), &format!("+{controller}"));
                permitted.inspect_err(|_| below.iter().for_each(|below| move_back(&folder, below)))?;
            }
            if !folders.contains(&folder) {
                folders.push(folder);
            }
            versions.push(version);
        }
        let version = versions.first().copied().unwrap_or(Version::One);
        if versions.iter().any(|&other| other != version) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the controllers cpu and memory have different versions",
            ));
        }
        let controller = Self { folders, version, limits };
        controller.check()?;
        Ok(controller)
    }

    /// Like [`Self::find`], but leaves the memory limit out if only the processor limit is permitted. Logs the limits
    /// that are not permitted. Returns `None` if `limits` has no limit.
    ///
    /// # Errors
    /// If no limit is permitted: a text for users.
    pub fn find_for(limits: ResourceLimits) -> Result<Option<Self>, String> {
        if limits == ResourceLimits::default() {
            return Ok(None);
        }
        let found = Self::find(limits).or_else(|error| match limits.memory {
            Some(memory) if limits.cores.is_some() => {
                tracing::warn!(
                    %error,
                    "replicas run without --memory-limit {memory}, which control groups do not permit here"
                );
                Self::find(ResourceLimits { memory: None, ..limits })
            }
            _ => Err(error),
        });
        found.map(Some).map_err(|error| {
            let text = format!("unlimited, as control groups are not permitted here ({error})");
            tracing::warn!("replicas are {text}");
            text
        })
    }

    /// Moves a process into a group: the only reliable way to know that this is permitted.
    fn check(&self) -> io::Result<()> {
        let group = self.group()?;
        // `cat` runs until its input ends.
        let mut process = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let added = group.add(process.id());
        drop(process.stdin.take());
        process.wait()?;
        added
    }

    /// The limits of each group that this controller makes.
    pub fn limits(&self) -> ResourceLimits {
        self.limits
    }

    /// Makes a group with the limits.
    ///
    /// # Errors
    /// If the kernel refuses the group or a limit.
    pub fn group(&self) -> io::Result<Group> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("{PREFIX}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let mut group = Group { folders: Vec::new(), memory: self.limits.memory };
        for folder in &self.folders {
            let folder = folder.join(&name);
            create_folder(&folder)?;
            group.folders.push(folder);
        }
        match self.version {
            Version::One => self.limit_version_1(&group)?,
            Version::Two => self.limit_version_2(&group)?,
        }
        Ok(group)
    }

    fn limit_version_1(&self, group: &Group) -> io::Result<()> {
        if let Some(quota) = self.quota() {
            group.write("cpu.cfs_period_us", &PERIOD_MICROSECONDS.to_string())?;
            group.write("cpu.cfs_quota_us", &quota.to_string())?;
        }
        if let Some(memory) = self.limits.memory {
            let bytes = memory.as_u64().to_string();
            group.write("memory.limit_in_bytes", &bytes)?;
            // This file limits memory and swap together. It is missing if the kernel does not account for swap.
            group.write_if_present("memory.memsw.limit_in_bytes", &bytes)?;
        }
        Ok(())
    }

    fn limit_version_2(&self, group: &Group) -> io::Result<()> {
        // Below a group that has processes, as this program's may, only threaded groups are valid (cgroups(7), "Thread
        // mode").
        if group.read("cgroup.type")?.trim() == "domain invalid" {
            group.write("cgroup.type", "threaded")?;
        }
        if let Some(quota) = self.quota() {
            group.write("cpu.max", &format!("{quota} {PERIOD_MICROSECONDS}"))?;
        }
        if let Some(memory) = self.limits.memory {
            group.write("memory.max", &memory.as_u64().to_string())?;
            group.write_if_present("memory.swap.max", "0")?;
        }
        Ok(())
    }

    /// The processor time in each period, in microseconds; `None` if it is not limited.
    fn quota(&self) -> Option<u64> {
        self.limits.cores.map(|cores| (cores * PERIOD_MICROSECONDS as f64).round() as u64)
    }
}

/// Removes the groups of processes that were killed before they could remove them.
fn remove_leftovers(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next());
        if maker.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _in_use = fs::remove_dir(entry.path());
        }
    }
}

/// Moves this process into a new group below its own, since a group that has processes cannot limit the memory of
/// groups below it (cgroups(7), "no internal processes"). Returns the folder of the new group.
fn move_below(folder: &Path) -> io::Result<PathBuf> {
    let own = std::process::id().to_string();
    if read(&folder.join("cgroup.procs"))?.split_whitespace().any(|process| process != own) {
        let text = "this program shares its control group with other processes, so memory cannot be limited below it; \
                    start it in a group of its own: systemd-run --user --scope --property=Delegate=yes scaler …";
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    let below = folder.join(format!("{PREFIX}-{own}"));
    create_folder(&below)?;
    write(&below.join("cgroup.procs"), &own).inspect_err(|_| move_back(folder, &below))?;
    Ok(below)
}

/// Undoes [`move_below`]. If the kernel refuses this too, the group stays, which limits nothing.
fn move_back(folder: &Path, below: &Path) {
    let own = std::process::id().to_string();
    let _refused = write(&folder.join("cgroup.procs"), &own).and_then(|()| fs::remove_dir(below));
}

impl Group {
    /// Moves the process with the id `process`, with all its threads, into the group. After an error, the process is
    /// in the group that has this group. Otherwise it would keep a part of the limits.
    ///
    /// # Errors
    /// If the process has ended, or the kernel does not permit the move.
    pub fn add(&self, process: u32) -> io::Result<()> {
        let move_into = |folder: &Path| write(&folder.join("cgroup.procs"), &process.to_string());
        let added = self.folders.iter().try_for_each(|folder| move_into(folder));
        added.inspect_err(|_| {
            for folder in self.folders.iter().filter_map(|folder| folder.parent()) {
                // In folders that the process has not entered, this changes nothing.
                let _ended = move_into(folder);
            }
        })
    }

    /// The memory limit if a process of the group was killed because it needed more; otherwise `None`.
    pub fn exceeded_memory(&self) -> Option<ByteSize> {
        // The first file is that of version 2, and the second that of version 1.
        let texts = ["memory.events", "memory.oom_control"].into_iter().filter_map(|file| self.read(file).ok());
        let mut kills = texts.filter_map(|text| field(&text, "oom_kill"));
        self.memory.filter(|_| kills.any(|kills| kills > 0))
    }

    /// The path of the kernel's file `name`, which is in one of the folders.
    fn file(&self, name: &str) -> io::Result<PathBuf> {
        let mut files = self.folders.iter().map(|folder| folder.join(name));
        files.find(|file| file.exists()).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
    }

    fn read(&self, name: &str) -> io::Result<String> {
        read(&self.file(name)?)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        write(&self.file(name)?, text)
    }

    fn write_if_present(&self, name: &str, text: &str) -> io::Result<()> {
        match self.write(name, text) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = fs::remove_dir(folder) {
                let group = folder.display();
                tracing::warn!(%group, %error, "cannot remove a control group; its processes may still run");
            }
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| with_path("read", path, &error))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text).map_err(|error| with_path("write", path, &error))
}

fn create_folder(path: &Path) -> io::Result<()> {
    fs::create_dir(path).map_err(|error| with_path("create", path, &error))
}

/// The same kind of error, with a message that names the file.
fn with_path(action: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{action} {}: {error}", path.display()))
}

/// The number after `name` in a text that has a name and a number in each line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The folder of this process's group under a controller. `mounts` and `own` are the texts of `/proc/mounts` and
/// `/proc/self/cgroup`. Version 1 comes first: if a controller is mounted there, version 2 does not have it.
fn locate(mounts: &str, own: &str, controller: &str) -> Option<(PathBuf, Version)> {
    // The lines of `own` are `hierarchy:controllers:path`. The line of version 2 has no controllers.
    let path_of = |controller: &str| {
        own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let path = fields.next()?;
            controllers.split(',').any(|name| name == controller).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let mounted = |kind: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, at, found, options, ..] = fields[..] else { return None };
            let has = option.is_none_or(|option| options.split(',').any(|name| name == option));
            (found == kind && has).then(|| Path::new(at).to_owned())
        })
    };
    if let (Some(at), Some(path)) = (mounted("cgroup", Some(controller)), path_of(controller)) {
        return Some((at.join(path), Version::One));
    }
    Some((mounted("cgroup2", None)?.join(path_of("")?), Version::Two))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_controller_is_found_in_either_version() {
        let one = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                   cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                   cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "4:memory:/a\n2:cpu,cpuacct:/b/c\n0::/d\n";
        assert_eq!(locate(one, own, "cpu"), Some(("/sys/fs/cgroup/cpu,cpuacct/b/c".into(), Version::One)));
        assert_eq!(locate(one, own, "memory"), Some(("/sys/fs/cgroup/memory/a".into(), Version::One)));
        let two = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(locate(two, "0::/user.slice\n", "cpu"), Some(("/sys/fs/cgroup/user.slice".into(), Version::Two)));
        assert_eq!(locate("", own, "cpu"), None);
    }

    #[test]
    fn a_process_that_one_folder_refuses_leaves_the_others() {
        let folder = tempfile::tempdir().expect("temporary folders can be created");
        let group =
            Group { folders: ["cpu/group", "memory/group"].map(|name| folder.path().join(name)).into(), memory: None };
        // The folder of the memory controller does not exist.
        fs::create_dir_all(&group.folders[0]).expect("the folder is writable");
        group.add(7).expect_err("the second folder does not exist");
        let moved = fs::read_to_string(folder.path().join("cpu/cgroup.procs"));
        assert_eq!(moved.expect("the process was moved back"), "7");
    }

    /// A controller; `None` where control groups are not permitted. A line on the real standard error then says that
    /// the test is skipped.
    fn controller(limits: ResourceLimits) -> Option<Controller> {
        let skipped = |error: &io::Error| {
            writeln!(io::stderr(), "skipped: control groups are not permitted here ({error})").expect("it is open");
        };
        Controller::find(limits).inspect_err(skipped).ok()
    }

    #[test]
    fn a_group_takes_a_process_and_is_removed_when_it_is_dropped() {
        let limits = ResourceLimits { cores: Some(0.5), memory: Some(ByteSize::mib(64)) };
        for limits in [limits, ResourceLimits { memory: None, ..limits }, ResourceLimits { cores: None, ..limits }] {
            let Some(controller) = controller(limits) else { continue };
            let group = controller.group().expect("another one");
            let mut child = Command::new("sleep").arg("60").spawn().expect("sleep exists");
            group.add(child.id()).expect("it is alive");
            let own = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).expect("readable");
            for folder in &group.folders {
                let name = folder.file_name().and_then(|name| name.to_str()).expect("a name of ours");
                assert!(own.contains(name), "{own}");
            }
            assert_eq!(own.matches(PREFIX).count(), limits.controllers().count(), "{own}");
            child.kill().expect("it is ours");
            child.wait().expect("it ends");
            assert_eq!(group.exceeded_memory(), None);
            let folders = group.folders.clone();
            drop(group);
            assert!(folders.iter().all(|folder| !folder.exists()));
        }
    }

    #[test]
    fn a_process_that_needs_more_memory_is_killed() {
        let limit = ByteSize::mib(32);
        let Some(controller) = controller(ResourceLimits { cores: None, memory: Some(limit) }) else { return };
        let group = controller.group().expect("another one");
        // After it has read a line, the shell's last command holds a line of 256 MB in memory.
        let mut child = Command::new("sh")
            .args(["-c", "read begin; head -c 256000000 /dev/zero | tail -n 1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("sh exists");
        group.add(child.id()).expect("it is alive");
        child.stdin.take().expect("piped").write_all(b"begin\n").expect("it reads");
        assert!(!child.wait().expect("it ends").success());
        assert_eq!(group.exceeded_memory(), Some(limit));
    }
}
