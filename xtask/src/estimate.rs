//! Estimates how long the demo will take on this machine.

use crate::build::PROGRAMS;
use harness::paths;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// CPU time for compiling all crates from registries on the reference machine, in seconds (`cargo build --timings`).
const DEPENDENCIES_CPU_SECONDS: f64 = 300.0;

/// CPU time for compiling the crates of the workspace on the reference machine, in seconds.
const WORKSPACE_CPU_SECONDS: f64 = 170.0;

/// The number of libraries from registries that cargo compiles for the programs.
const LIBRARIES: f64 = 380.0;

/// Time for compiling the longest chain of dependent crates on the reference machine, in seconds.
const CHAIN_SECONDS: f64 = 110.0;

/// Time of [`sort`] on the reference machine, which has two virtual cores of a server.
const REFERENCE_SORT: Duration = Duration::from_millis(28);

/// The assumed download rate, in bytes per second.
const DOWNLOAD_RATE: f64 = 10e6;

/// Duration of the demo after the build.
const RUN: Duration = Duration::from_secs(90);

/// A sentence that says how long the demo takes, and why. If programs must be compiled, measures the processor for some
/// tenths of a second.
pub fn estimate() -> String {
    let download_bytes = if libtorch::is_present() { 0 } else { libtorch::DOWNLOAD_BYTES };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let is_built = PROGRAMS.iter().all(|program| paths::program(program).exists());
    let compilation = if is_built { None } else { Some(compilation(missing_share(), cores, speed(cores))) };
    sentence(download_bytes, compilation, cores)
}

/// Writes the sentence of [`estimate`]. `compilation` is `None` if the programs were compiled before.
fn sentence(download_bytes: u64, compilation: Option<Duration>, cores: usize) -> String {
    let download = Duration::from_secs_f64(download_bytes as f64 / DOWNLOAD_RATE);
    let total = download + compilation.unwrap_or_default() + RUN;
    let mut sentence = format!("the demo takes about {} on this machine", rounded(total));
    match compilation {
        None => sentence += ", and longer if sources have changed since the last build",
        Some(time) => sentence += &format!(": {} to compile on {cores} cores, {} to run", rounded(time), rounded(RUN)),
    }
    if download_bytes > 0 {
        let megabytes = download_bytes / 1_000_000;
        sentence += &format!(", {} to download {megabytes} MB at {} MB/s", rounded(download), DOWNLOAD_RATE / 1e6);
    }
    sentence
}

/// Time for compiling the workspace and the share `missing_share` of the libraries from registries.
fn compilation(missing_share: f64, cores: usize, speed: f64) -> Duration {
    let cpu_seconds = DEPENDENCIES_CPU_SECONDS * missing_share + WORKSPACE_CPU_SECONDS;
    Duration::from_secs_f64((cpu_seconds / cores as f64).max(CHAIN_SECONDS * missing_share) / speed)
}

/// Rounds to whole minutes; below two minutes, rounds up to tens of seconds.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 120.0 {
        format!("{:.0} s", (seconds / 10.0).ceil() * 10.0)
    } else {
        format!("{:.0} min", seconds / 60.0)
    }
}

/// The share of the libraries from registries that are not compiled yet, 0 to 1.
fn missing_share() -> f64 {
    let files = fs::read_dir(paths::program("deps")).into_iter().flatten().flatten();
    let libraries =
        files.filter(|file| file.path().extension().is_some_and(|ending| ending == "rlib" || ending == "so"));
    (1.0 - libraries.count() as f64 / LIBRARIES).max(0.0)
}

/// Speed of one core while all cores are busy, as a multiple of the reference machine's speed.
fn speed(cores: usize) -> f64 {
    let times: Vec<f64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(|| (0..3).map(|_| sort()).min())).collect();
        let times = threads.into_iter().filter_map(|thread| thread.join().expect("sorting does not panic"));
        times.map(|time| time.as_secs_f64()).collect()
    });
    REFERENCE_SORT.as_secs_f64() * times.len() as f64 / times.iter().sum::<f64>()
}

/// Time for sorting two million numbers. Branches and memory bound the speed of sorting, as they do for compiling.
fn sort() -> Duration {
    // A linear congruential generator with Knuth's constants for 64 bits (MMIX).
    let next =
        |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    let mut numbers: Vec<u64> = std::iter::successors(Some(1), next).take(2_000_000).collect();
    let started = Instant::now();
    numbers.sort_unstable();
    black_box(&numbers);
    started.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_names_only_the_remaining_work() {
        let built = sentence(0, None, 2);
        assert!(built.starts_with("the demo takes about 90 s on this machine") && !built.contains("MB"), "{built}");
        let nothing = sentence(530_000_000, Some(Duration::from_secs(400)), 2);
        for part in ["about 9 min", "530 MB", "7 min to compile on 2 cores", "90 s to run"] {
            assert!(nothing.contains(part), "{nothing}");
        }
    }

    #[test]
    fn a_faster_machine_and_more_cores_take_less_time() {
        let whole = compilation(1.0, 2, 1.0);
        assert_eq!(compilation(1.0, 2, 2.0), whole / 2);
        assert_eq!(compilation(1.0, 1, 1.0), 2 * whole);
        assert!(compilation(0.5, 2, 1.0) < whole);
        // Crates that depend on each other do not compile faster with more cores.
        assert_eq!(compilation(1.0, 1000, 1.0).as_secs_f64(), CHAIN_SECONDS);
    }

    #[test]
    fn the_measured_speed_is_positive() {
        let measured = speed(1);
        assert!(measured.is_finite() && measured > 0.0, "{measured}");
    }
}
