//! A share of the processor for a child process, by the kernel's control groups, version 1 or 2.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Microseconds over which a share is kept. Short, so that a replica with half a core is slow rather than bursty.
const PERIOD_MICROSECONDS: u64 = 20_000;

/// Where groups can be made.
#[derive(Debug, Clone)]
pub struct Controller {
    folder: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// One group, removed when dropped; its processes must have ended by then.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
}

impl Controller {
    /// Finds this process's own group and checks that others can be made beside or below it.
    ///
    /// # Errors
    /// When the system has no such controller, or does not let us use it.
    pub fn find() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let (folder, version) = locate(&mounts, &own)
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no cgroup controller for cpu is mounted"))?;
        let controller = Self { folder, version };
        controller.clear_leftovers();
        if version == Version::Two {
            fs::write(controller.folder.join("cgroup.subtree_control"), "+cpu")?;
        }
        controller.check()?;
        Ok(controller)
    }

    /// Moves a process into a group: the only reliable way to know that it can be done.
    fn check(&self) -> io::Result<()> {
        let group = self.group("check", 1.0)?;
        // Waits for its input to end.
        let mut process = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let added = group.add(process.id());
        drop(process.stdin.take());
        process.wait()?;
        added
    }

    /// Makes a group whose processes together get `cores` of processor time.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn group(&self, name: &str, cores: f64) -> io::Result<Group> {
        let folder = self.folder.join(format!("roundhouse-{}-{name}", std::process::id()));
        fs::create_dir(&folder)?;
        let group = Group { folder };
        let quota = (cores * PERIOD_MICROSECONDS as f64).round() as u64;
        match self.version {
            Version::One => {
                fs::write(group.folder.join("cpu.cfs_period_us"), PERIOD_MICROSECONDS.to_string())?;
                fs::write(group.folder.join("cpu.cfs_quota_us"), quota.to_string())?;
            }
            Version::Two => {
                // A group that holds processes, as this program's does, can have none below it but threaded ones
                // (cgroups(7), "Threads and processes").
                let kind = group.folder.join("cgroup.type");
                if fs::read_to_string(&kind)?.trim() == "domain invalid" {
                    fs::write(kind, "threaded")?;
                }
                fs::write(group.folder.join("cpu.max"), format!("{quota} {PERIOD_MICROSECONDS}"))?;
            }
        }
        Ok(group)
    }

    /// Groups that a scaler left behind when it was killed are empty by now; ones in use cannot be removed.
    fn clear_leftovers(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with("roundhouse-") {
                let _in_use = fs::remove_dir(entry.path());
            }
        }
    }
}

impl Group {
    /// Moves a process, with all its threads, into the group.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn add(&self, process: u32) -> io::Result<()> {
        fs::write(self.folder.join("cgroup.procs"), process.to_string())
    }
}

impl Group {
    /// What its processes have used of the processor, ever.
    ///
    /// # Errors
    /// Where no account is kept: in version 1 that is another controller, which may have a hierarchy of its own.
    pub fn processor_time(&self) -> io::Result<Duration> {
        processor_time(&self.folder)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::warn!(group = %self.folder.display(), %error, "a control group could not be removed");
        }
    }
}

fn processor_time(group: &Path) -> io::Result<Duration> {
    if let Ok(nanoseconds) = fs::read_to_string(group.join("cpuacct.usage")) {
        return nanoseconds.trim().parse().map(Duration::from_nanos).map_err(io::Error::other);
    }
    let stat = fs::read_to_string(group.join("cpu.stat"))?;
    field(&stat, "usage_usec").map(Duration::from_micros).ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// The number behind a name, in a file with one of each a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The folder of this process's group under the `cpu` controller, from the texts of `/proc/mounts` and
/// `/proc/self/cgroup`. A version 1 controller is preferred: where it is mounted, version 2 has no `cpu`.
fn locate(mounts: &str, own: &str) -> Option<(PathBuf, Version)> {
    // `hierarchy:controllers:path`; version 2 has no controllers in its line.
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
    if let (Some(at), Some(path)) = (mounted("cgroup", Some("cpu")), path_of("cpu")) {
        return Some((at.join(path), Version::One));
    }
    Some((mounted("cgroup2", None)?.join(path_of("")?), Version::Two))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_controller_is_found_in_either_version() {
        let one = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                   cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "4:memory:/a\n2:cpu,cpuacct:/b/c\n0::/d\n";
        assert_eq!(locate(one, own), Some(("/sys/fs/cgroup/cpu,cpuacct/b/c".into(), Version::One)));
        let two = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        assert_eq!(locate(two, "0::/user.slice\n"), Some(("/sys/fs/cgroup/user.slice".into(), Version::Two)));
        assert_eq!(locate("", own), None);
    }

    #[test]
    fn processor_time_comes_from_either_version() {
        for (file, text, expected) in [
            ("cpuacct.usage", "1500000000\n", Some(1.5)),
            ("cpuacct.usage", "many", None),
            ("cpu.stat", "usage_usec 2500000\nuser_usec 9\nsystem_usec 9\n", Some(2.5)),
            // What version 1 has there.
            ("cpu.stat", "nr_periods 5\nnr_throttled 0\nthrottled_time 0\n", None),
            ("cpu.stat", "usage_usec -1\n", None),
            ("cpu.stat", "usage_usec_of_others 1\n", None),
            ("other", "", None),
        ] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            fs::write(folder.path().join(file), text).expect("written");
            let used = processor_time(folder.path()).ok().map(|used| used.as_secs_f64());
            assert_eq!(used, expected, "{file} {text}");
        }
    }

    #[test]
    fn a_group_takes_a_process_and_goes_away() {
        let controller = match Controller::find() {
            Ok(controller) => controller,
            Err(error) => {
                // Past the capturing of what passing tests print: nothing is skipped silently.
                return writeln!(io::stderr(), "skipped: control groups are not permitted here ({error})")
                    .expect("standard error is open");
            }
        };
        let group = controller.group("test", 0.5).expect("another one");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep exists");
        group.add(child.id()).expect("it is alive");
        let own = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).expect("readable");
        let name = group.folder.file_name().and_then(|name| name.to_str()).expect("a name of ours");
        assert!(own.contains(name), "{own}");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
        let folder = group.folder.clone();
        drop(group);
        assert!(!folder.exists());
    }
}
