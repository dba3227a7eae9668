//! The memory of a run of 24 hours at 2,000 requests per second, in accelerated time: the schedule and the records of
//! its 173 million requests are those of a run, but no request is sent.

#![cfg(target_os = "linux")]

use loadgen::recording::{Record, RunRecording};
use loadgen::sample::{RequestOutcome, Sample};
use loadgen::schedule::Schedule;
use std::collections::VecDeque;
use std::time::Duration;
use workload::Workload;
use workload::arrivals::ArrivalProcess;

/// Requests per second.
const RATE: f64 = 2000.0;

/// Length of the run.
const LENGTH: Duration = Duration::from_secs(24 * 3600);

/// Most memory that the process may use, in bytes.
const MAX_BYTES: u64 = 150_000_000;

/// The resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has this file");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the file has this line");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("the line has a number");
    1024 * kibibytes
}

/// The sample of request `index`. Latencies lie between 1 ms and 1 s, and one request in a thousand fails after 30 s.
fn sample(index: usize, scheduled: Duration) -> Sample {
    let has_failed = index.is_multiple_of(1000);
    let micros = if has_failed { 30_000_000 } else { 1000 + (index as u64).wrapping_mul(2_654_435_761) % 1_000_000 };
    let outcome = if has_failed {
        RequestOutcome::Failed { code: "client_timeout".into() }
    } else {
        RequestOutcome::Answered { right: Some(true) }
    };
    Sample {
        index,
        image: index % 120,
        scheduled,
        send_delay: Duration::from_micros(index as u64 % 300),
        latency: Duration::from_micros(micros),
        sent_bytes: 38_000,
        received_bytes: 300,
        status: Some(200),
        replica: None,
        timing: None,
        outcome,
    }
}

#[test]
fn a_day_of_2000_requests_per_second_needs_little_memory_from_its_first_hour_on() {
    let schedule = Schedule {
        workload: Workload::constant(RATE, LENGTH),
        arrivals: ArrivalProcess::Poisson,
        seed: 1,
        warmup: Duration::ZERO,
    };
    let mut recording = RunRecording::new(Duration::from_millis(500), LENGTH, Some(60), None, Duration::from_secs(30));
    // Requests that have been sent, and whose samples are recorded 30 s later, at the latest time at which they can end.
    let mut in_flight = VecDeque::new();
    let mut by_hour = Vec::new();
    let mut next_tick = Duration::ZERO;
    for (index, scheduled) in schedule.times().enumerate() {
        in_flight.push_back((index, scheduled));
        if scheduled < next_tick {
            continue;
        }
        next_tick = scheduled + Duration::from_millis(200);
        while let Some(&(index, at)) = in_flight.front()
            && at + Duration::from_secs(30) <= scheduled
        {
            recording.record(&sample(index, at));
            in_flight.pop_front();
        }
        recording.advance(scheduled);
        if scheduled.as_secs() / 3600 >= by_hour.len() as u64 {
            by_hour.push(resident_bytes());
        }
    }
    in_flight.into_iter().for_each(|(index, at)| recording.record(&sample(index, at)));
    let seconds = recording.seconds.finish(LENGTH);
    let offered = recording.tally.summary(None).offered;
    by_hour.push(resident_bytes());
    println!(
        "{offered} requests; memory by hour, in MB: {:?}",
        by_hour.iter().map(|b| b / 1_000_000).collect::<Vec<_>>()
    );
    assert_eq!((by_hour.len(), seconds.len()), (25, 24 * 3600));
    assert_eq!(seconds.iter().map(|row| row.offered).sum::<usize>(), offered);
    assert!(by_hour.iter().all(|&bytes| bytes <= MAX_BYTES), "{by_hour:?}");
    // The rows of the seconds remain: 3,600 in an hour, with about 100 bytes each. Nothing else may grow.
    let growth = by_hour[23].saturating_sub(by_hour[1]) / 22;
    assert!(growth <= 1_500_000, "{growth} bytes an hour: {by_hour:?}");
}
