//! Processor time that this machine wanted and its host gave to others, so that a busy host is told from a bad law.

/// Ticks of all processors since the machine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    stolen: u64,
    all: u64,
}

impl Ticks {
    /// Now; nothing where the system does not tell (it is Linux that does).
    pub fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// From the first line of `/proc/stat` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        Some(Self { stolen: *ticks.get(7)?, all: ticks.iter().sum() })
    }

    /// Share of all processor time since `earlier` that was stolen, 0 to 1.
    pub fn stolen_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stolen_share_is_found() {
        let before = Ticks::parse("cpu  100 0 20 300 0 0 0 5 0 0\ncpu0 1 2\n").expect("well formed");
        let after = Ticks::parse("cpu  150 0 30 320 0 0 0 25 0 0\n").expect("well formed");
        assert_eq!(after.stolen_since(before), 0.2);
        assert_eq!(before.stolen_since(after), 0.0);
        for malformed in ["", "cpu", "cpu 1 2 3", "cpu 1 2 3 4 5 6 7 many"] {
            assert_eq!(Ticks::parse(malformed), None, "{malformed:?}");
        }
    }
}
