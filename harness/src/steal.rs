//! Steal time: processor time that this machine wanted and its host gave to other machines. It shows whether a bad
//! result is due to a busy host.

use anyhow::Result;
use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two samples.
const STEP: Duration = Duration::from_millis(500);

/// Share of the processor time, 0 to 1. A step in which the host took more counts as lost, since hardly any program
/// could answer in it.
const LOST: f64 = 0.8;

/// Share of the processor time of a run, 0 to 1. Steal time of at least this share is worth a message.
const NOTABLE: f64 = 0.05;

/// Runs `measure`, and prints the steal time of its run if that is notable.
///
/// # Errors
/// If `measure` fails.
pub fn watch<T>(measure: impl FnOnce() -> Result<T>) -> Result<T> {
    let watch = Watch::start();
    let measured = measure();
    let stolen = watch.finish();
    if stolen.is_notable() {
        println!("{stolen}");
    }
    measured
}

/// Ticks of all processors since the machine started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    stolen: u64,
    all: u64,
}

impl Ticks {
    /// The ticks until now; `None` on systems other than Linux.
    fn now() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// Parses the first line of `/proc/stat` (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
        Some(Self { stolen: *ticks.get(7)?, all: ticks.iter().sum() })
    }

    /// Share of all processor time since `earlier` that was stolen, 0 to 1.
    fn stolen_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64
    }
}

/// A thread that samples the steal time.
pub struct Watch {
    stop: Sender<()>,
    sampling: JoinHandle<Vec<Ticks>>,
}

impl Watch {
    /// Starts sampling.
    pub fn start() -> Self {
        let (stop, stopped) = channel();
        Self { stop, sampling: std::thread::spawn(move || sample(&stopped)) }
    }

    /// Ends sampling. Returns the steal time since the start.
    pub fn finish(self) -> Stolen {
        drop(self.stop);
        sum(&self.sampling.join().expect("the sampling thread does not panic"))
    }
}

/// The steal time of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stolen {
    /// Share of all processor time that the host took, 0 to 1.
    share: f64,
    /// Length of all steps together in which the host took more than [`LOST`].
    lost: Duration,
}

impl Stolen {
    /// Whether the steal time may have changed the result.
    pub fn is_notable(&self) -> bool {
        self.share >= NOTABLE || self.stopped_the_machine()
    }

    /// Whether there was a step in which hardly any program on this machine could answer.
    pub fn stopped_the_machine(&self) -> bool {
        self.lost > Duration::ZERO
    }
}

impl fmt::Display for Stolen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the host of this machine took {:.0} % of its processor time during the run", 100.0 * self.share)?;
        if self.stopped_the_machine() {
            write!(f, ", and nearly all of it for {} s", self.lost.as_secs_f64())?;
        }
        Ok(())
    }
}

fn sample(stopped: &Receiver<()>) -> Vec<Ticks> {
    let mut samples = Vec::new();
    loop {
        samples.extend(Ticks::now());
        if stopped.recv_timeout(STEP) != Err(RecvTimeoutError::Timeout) {
            samples.extend(Ticks::now());
            return samples;
        }
    }
}

fn sum(samples: &[Ticks]) -> Stolen {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Stolen::default() };
    let lost = samples.windows(2).filter(|pair| pair[1].stolen_since(pair[0]) > LOST).count();
    Stolen { share: last.stolen_since(*first), lost: STEP * lost as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stolen_share_is_that_between_two_readings() {
        let before = Ticks::parse("cpu  100 0 20 300 0 0 0 5 0 0\ncpu0 1 2\n").expect("well formed");
        let after = Ticks::parse("cpu  150 0 30 320 0 0 0 25 0 0\n").expect("well formed");
        assert_eq!(after.stolen_since(before), 0.2);
        assert_eq!(before.stolen_since(after), 0.0);
        for malformed in ["", "cpu", "cpu 1 2 3", "cpu 1 2 3 4 5 6 7 many"] {
            assert_eq!(Ticks::parse(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn steal_time_is_notable_from_five_per_cent_or_one_lost_step() {
        let samples = |steps: &[u64]| {
            let mut ticks = vec![Ticks { stolen: 0, all: 0 }];
            for stolen in steps {
                let last = ticks[ticks.len() - 1];
                ticks.push(Ticks { stolen: last.stolen + stolen, all: last.all + 100 });
            }
            let stolen = sum(&ticks);
            (stolen.is_notable(), stolen.stopped_the_machine())
        };
        assert_eq!(samples(&[0; 9]), (false, false));
        assert_eq!(samples(&[4; 9]), (false, false));
        assert_eq!(samples(&[20; 9]), (true, false));
        assert_eq!(samples(&[[0; 40].as_slice(), &[90, 70]].concat()), (true, true));
        assert_eq!(sum(&[]), Stolen::default());
        let stolen = Stolen { share: 0.17, lost: 3 * STEP };
        assert!(stolen.to_string().contains("17 %") && stolen.to_string().contains("1.5 s"), "{stolen}");
    }
}
