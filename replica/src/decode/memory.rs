//! The bytes that all decoders may use together. A decoder reserves the bytes of an image before it decodes it, and waits
//! in the order of arrival until they are free. Knows nothing of image formats.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The part of the memory that decoders may use by default, as a divisor. The other half is for the model, the bodies of
/// requests and the model's inputs.
const DEFAULT_PART: u64 = 2;

/// Most bytes by default. Four images of 50 megapixels are decoded at the same time with it.
const MOST_BY_DEFAULT: u64 = 2 << 30;

/// A number of bytes that decoders share.
#[derive(Debug)]
pub struct DecodeMemory {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: u64,
    /// The numbers of the reservations that wait, in the order of their arrival.
    waiting: VecDeque<u64>,
    next_number: u64,
}

/// Bytes that are reserved until this value is dropped.
#[derive(Debug)]
pub struct Reservation<'memory> {
    memory: &'memory DecodeMemory,
    bytes: u64,
}

impl DecodeMemory {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Self {
        let state = State { free: bytes, waiting: VecDeque::new(), next_number: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Reserves `bytes`, which must not exceed the whole budget. Waits until they are free, behind the reservations that
    /// wait already: otherwise small images could keep a large one waiting for ever. Returns `None` at `deadline`.
    pub fn reserve(&self, bytes: u64, deadline: Instant) -> Option<Reservation<'_>> {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        state.waiting.push_back(number);
        loop {
            if state.waiting.front() == Some(&number) && state.free >= bytes {
                state.waiting.pop_front();
                state.free -= bytes;
                self.changed.notify_all();
                return Some(Reservation { memory: self, bytes });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.waiting.retain(|waiting| *waiting != number);
                self.changed.notify_all();
                return None;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.memory.lock().free += self.bytes;
        self.memory.changed.notify_all();
    }
}

/// The budget for a process without a setting: half of the memory that the process may use, at most 2 GiB. That memory is
/// the limit of its control group, or the machine's memory if that is less.
pub fn default_bytes() -> u64 {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let group = read(Path::new("/proc/self/cgroup"));
    let limits = group_paths(&group).into_iter().filter_map(|path| read(Path::new(&path)).trim().parse().ok());
    let machine = machine_bytes(&read(Path::new("/proc/meminfo")));
    let least = limits.chain(machine).min();
    least.map_or(MOST_BY_DEFAULT, |bytes: u64| bytes / DEFAULT_PART).min(MOST_BY_DEFAULT)
}

/// The files with the memory limits of the control groups that `/proc/self/cgroup` names, from the process's own group up
/// to the root of the hierarchy. A group's limit may be lower than that of the groups in it.
fn group_paths(groups: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            named if named.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(group).ancestors() {
            paths.push(format!("{root}{}/{file}", group.display().to_string().trim_end_matches('/')));
        }
    }
    paths
}

/// The machine's memory, from the text of `/proc/meminfo`, which has it in KiB.
fn machine_bytes(information: &str) -> Option<u64> {
    let line = information.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn bytes_are_reserved_until_the_reservation_is_dropped() {
        let memory = DecodeMemory::new(10);
        let held = memory.reserve(7, soon()).expect("10 bytes are free");
        assert!(memory.reserve(4, soon()).is_none(), "only 3 bytes are free at the deadline");
        drop(memory.reserve(3, soon()).expect("3 bytes are free, and nothing waits before"));
        drop(held);
        assert!(memory.reserve(10, soon()).is_some());
    }

    #[test]
    fn a_large_image_is_not_overtaken_by_small_ones() {
        let memory = DecodeMemory::new(10);
        let far = Instant::now() + Duration::from_secs(600);
        let held = memory.reserve(5, far).expect("10 bytes are free");
        let (sender, order) = mpsc::channel();
        thread::scope(|scope| {
            let wait = |bytes: u64, waiting: usize| {
                let (memory, sender) = (&memory, sender.clone());
                scope.spawn(move || {
                    let reservation = memory.reserve(bytes, far);
                    sender.send(bytes).expect("the test receives");
                    drop(reservation);
                });
                while memory.lock().waiting.len() < waiting {
                    thread::yield_now();
                }
            };
            wait(10, 1);
            wait(1, 2);
            assert!(order.try_recv().is_err(), "5 bytes are free, but the first one needs 10");
            drop(held);
        });
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [10, 1]);
    }

    #[test]
    fn the_limits_of_all_groups_up_to_the_root_count() {
        assert_eq!(
            group_paths("0::/pods/one\n"),
            ["/sys/fs/cgroup/pods/one/memory.max", "/sys/fs/cgroup/pods/memory.max", "/sys/fs/cgroup/memory.max"]
        );
        assert_eq!(
            group_paths("5:cpu,cpuacct:/a\n4:memory:/\nnonsense"),
            ["/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        );
        assert_eq!(machine_bytes("Mem: 1\nMemTotal:       24664764 kB\n"), Some(24_664_764 << 10));
        assert_eq!(machine_bytes("MemTotal: many\n"), None);
        assert!((1 << 20..=MOST_BY_DEFAULT).contains(&default_bytes()), "{}", default_bytes());
    }
}
