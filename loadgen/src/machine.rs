//! The machine that sends the load: its processor, its memory, and the processor time that its host takes from it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A machine. Runs on different machines cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Machine {
    /// The model of the processor.
    pub processor: String,
    /// Number of processors that programs can run on, as the operating system counts them.
    pub cores: usize,
    /// Size of the memory, in bytes.
    pub memory_bytes: u64,
}

impl Machine {
    /// This machine. `None` on systems other than Linux.
    pub fn this() -> Option<Self> {
        let read = |file: &str| std::fs::read_to_string(file).ok();
        Self::parse(&read("/proc/cpuinfo")?, &read("/proc/meminfo")?)
    }

    /// Parses `/proc/cpuinfo` and `/proc/meminfo`. On ARM, no line names the model.
    fn parse(cpuinfo: &str, meminfo: &str) -> Option<Self> {
        let value = |line: &str, key: &str| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        };
        let cores = cpuinfo.lines().filter(|line| value(line, "processor").is_some()).count();
        let model = cpuinfo.lines().find_map(|line| value(line, "model name"));
        let kibibytes: u64 =
            meminfo.lines().find_map(|line| value(line, "MemTotal"))?.trim_end_matches(" kB").parse().ok()?;
        (cores > 0).then(|| Self {
            processor: model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores,
            memory_bytes: kibibytes.saturating_mul(1024),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gibibytes = self.memory_bytes as f64 / f64::from(1 << 30);
        // The name comes from a file, which may be the report of another user.
        let processor = self.processor.replace(char::is_control, "\u{fffd}");
        write!(f, "{processor}, {} cores, {gibibytes:.0} GiB", self.cores)
    }
}

/// The time of all processors since the machine started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessorTime {
    stolen: u64,
    all: u64,
}

impl ProcessorTime {
    /// The time until now. `None` on systems other than Linux.
    pub fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// Parses the first line of `/proc/stat` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        Some(Self { stolen: *ticks.get(7)?, all: ticks.iter().sum() })
    }

    /// Share of the time since `earlier` that the host of this virtual machine gave to others, 0 to 1.
    pub fn stolen_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: &str = "MemTotal:        8388608 kB\nMemFree:  1 kB\n";

    #[test]
    fn a_machine_is_its_processor_its_cores_and_its_memory() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A Chip @ 2 GHz\n\nprocessor\t: 1\nmodel name\t: A Chip @ 2 GHz\n";
        let machine = Machine::parse(cpuinfo, MEMORY).expect("well formed");
        assert_eq!(machine.to_string(), "A Chip @ 2 GHz, 2 cores, 8 GiB");
        let unnamed = Machine::parse("processor\t: 0\nBogoMIPS\t: 50.0\n", MEMORY).expect("well formed");
        assert_eq!((unnamed.processor.as_str(), unnamed.cores), (std::env::consts::ARCH, 1));
        for (cpuinfo, meminfo) in [("", MEMORY), (cpuinfo, ""), (cpuinfo, "MemTotal: many kB")] {
            assert_eq!(Machine::parse(cpuinfo, meminfo), None, "{cpuinfo:?}, {meminfo:?}");
        }
        let forged = Machine { processor: "a\u{1b}[2J".into(), ..machine };
        assert!(!forged.to_string().contains('\u{1b}'));
    }

    #[test]
    fn the_stolen_share_is_that_between_two_readings() {
        let before = ProcessorTime::parse("cpu  100 0 20 300 0 0 0 5 0 0\ncpu0 1 2\n").expect("well formed");
        let after = ProcessorTime::parse("cpu  150 0 30 320 0 0 0 25 0 0\n").expect("well formed");
        assert_eq!((after.stolen_since(before), before.stolen_since(after)), (0.2, 0.0));
        for malformed in ["", "cpu", "cpu 1 2 3", "cpu 1 2 3 4 5 6 7 many"] {
            assert_eq!(ProcessorTime::parse(malformed), None, "{malformed:?}");
        }
    }
}
