use super::disturbances::Disturbances;
use super::*;
use crate::laws::windows::queueing::erlang_c;
use crate::simulate::requests::generate;
use crate::simulate::time_distribution::TimeDistribution;
use admission::Order;
use proptest::prelude::*;
use workload::Workload;
use workload::arrivals::ArrivalProcess;

const HOUR: Duration = Duration::from_secs(3600);
const S: fn(f64) -> Duration = Duration::from_secs_f64;

/// The mean wait in seconds of Poisson arrivals that `replicas` replicas serve in order of arrival. No request is
/// refused or expires.
fn mean_wait(service_times: TimeDistribution, replicas: usize, arrivals_per_second: f64, seconds: f64) -> f64 {
    let unlimited = PlantSettings {
        order: Order::Fifo,
        objective: HOUR,
        deadline: HOUR,
        max_queue_length: usize::MAX,
        ..PlantSettings::simple(service_times.clone())
    };
    let mut plant = Plant::new(unlimited, replicas, 1);
    let workload = Workload::constant(arrivals_per_second, S(seconds));
    plant.run(&mut generate(&workload, ArrivalProcess::Poisson, &service_times, 1).peekable(), S(seconds));
    plant.finish_all();
    let seen = plant.observe();
    assert_eq!(seen.arrivals, seen.latency.count(), "no request is refused or expires");
    (seen.latency.sum - seen.service.sum) / seen.arrivals
}

/// A request every `seconds`, the first at second `first`, all with a service time of `service_time` seconds.
fn every(seconds: f64, first: f64, service_time: f64) -> Peekable<impl Iterator<Item = PlantRequest>> {
    let nanoseconds = |seconds: f64| (seconds * 1e9) as u64;
    let request = move |count: u64| PlantRequest {
        arrived: nanoseconds(first) + count * nanoseconds(seconds),
        service_time: nanoseconds(service_time),
    };
    (0..).map(request).peekable()
}

fn assert_near(found: f64, expected: f64) {
    assert!((found / expected - 1.0).abs() < 0.02, "{found} is not within 2 % of {expected}");
}

#[test]
fn mean_waits_agree_with_queueing_theory() {
    // M/M/n: the mean wait is C(n, a)·S / (n·(1 − ρ)).
    for (replicas, utilisation) in [(1, 0.7), (3, 0.8), (10, 0.8)] {
        let load = utilisation * replicas as f64;
        let expected = erlang_c(replicas, load) * 0.05 / (replicas as f64 * (1.0 - utilisation));
        assert_near(
            mean_wait(TimeDistribution::Exponential(S(0.05)), replicas, load / 0.05, 3e6 / (load / 0.05)),
            expected,
        );
    }
    // M/D/1: the mean wait is ρ·S / (2·(1 − ρ)). M/G/1: the mean wait is 1 + cs² times as long (Pollaczek and
    // Khinchine).
    assert_near(mean_wait(TimeDistribution::Constant(S(0.05)), 1, 14.0, 1e5), 0.7 * 0.05 / 0.6);
    assert_near(mean_wait(TimeDistribution::new(S(0.05), 0.5), 1, 14.0, 1e5), 1.25 * 0.7 * 0.05 / 0.6);
}

#[test]
fn replicas_take_time_to_start_and_finish_their_requests_before_they_stop() {
    let mut plant = Plant::new(PlantSettings::simple(TimeDistribution::Constant(S(0.4))), 1, 1);
    // A request every 0.2 s, from 0.1 s on, is twice the load that one replica can serve.
    let mut arrivals = every(0.2, 0.1, 0.4);
    plant.run(&mut arrivals, S(1.0));
    plant.scale(2);
    plant.run(&mut arrivals, S(3.9));
    assert_eq!(plant.observe().replicas, Replicas { desired: 2, ready: 1, starting: 1, ..Replicas::default() });
    plant.run(&mut arrivals, S(4.05));
    assert_eq!(plant.observe().replicas, Replicas { desired: 2, ready: 2, starting: 0, ..Replicas::default() });
    assert_eq!((plant.observe().startup, plant.observe().in_flight), (Some(S(3.0)), 2.0));
    plant.scale(1);
    assert_eq!((plant.observe().replicas.ready, plant.observe().in_flight), (1, 2.0));
    plant.run(&mut arrivals, S(4.5));
    assert_eq!(plant.observe().in_flight, 1.0);
    // There is one replica for 1 s, then two replicas for 3.05 s (the second starts during 3 s of it), and then one
    // for 0.45 s.
    assert_eq!(plant.totals().replica_time, S(1.0 + 6.1 + 0.45));
}

#[test]
fn the_plant_creates_a_limited_number_of_replicas_per_second() {
    let limited =
        PlantSettings { starts_per_second: 20.0, ..PlantSettings::simple(TimeDistribution::Constant(S(0.1))) };
    let mut plant = Plant::new(limited, 100, 1);
    let mut none = every(0.0, 0.0, 0.1).take(0).peekable();
    let mut run = |plant: &mut Plant, seconds| plant.run(&mut none, S(seconds));
    run(&mut plant, 1.0);
    plant.scale(1100);
    let replicas = |ready| Replicas { desired: 1100, ready, starting: 1100 - ready, ..Replicas::default() };
    assert_eq!((plant.observe().replicas, plant.alive()), (replicas(100), 101));
    // The first one is created at once, and the last one of a thousand 49.95 s later. A start takes 3 s.
    run(&mut plant, 3.99);
    assert_eq!((plant.observe().replicas, plant.alive()), (replicas(100), 160));
    run(&mut plant, 28.99);
    assert_eq!((plant.observe().replicas, plant.alive()), (replicas(600), 660));
    // The start-up time is that after the creation.
    assert_eq!(plant.observe().startup, Some(S(3.0)));
    // Replicas that have not been created cost nothing, and a lower number creates no more.
    let before = plant.totals().replica_time;
    plant.scale(660);
    run(&mut plant, 33.99);
    assert_eq!((plant.observe().replicas.ready, plant.alive()), (660, 660));
    assert_eq!(plant.totals().replica_time - before, S(660.0 * 5.0));
    // A scale-up long after the last one does not catch up on the creations between.
    plant.scale(1000);
    assert_eq!(plant.alive(), 661);
}

#[test]
fn the_measured_startup_time_is_a_running_mean() {
    let disturbances = Disturbances { startup_variation: 0.5, ..Disturbances::NONE };
    let mut plant =
        Plant::new(PlantSettings { disturbances, ..PlantSettings::simple(TimeDistribution::Constant(S(0.1))) }, 0, 1);
    plant.scale(2);
    let mut none = every(0.0, 0.0, 0.1).take(0).peekable();
    let (mut milliseconds, mut took, mut means) = (0, Vec::new(), Vec::new());
    while took.len() < 2 {
        assert_eq!(plant.observe().replicas.ready, took.len(), "the two starts end at different times");
        milliseconds += 1;
        plant.run(&mut none, Duration::from_millis(milliseconds));
        if plant.observe().replicas.ready > took.len() {
            took.push(milliseconds as f64 / 1e3);
            means.push(plant.observe().startup.expect("a start has ended").as_secs_f64());
        }
    }
    assert!((means[0] - took[0]).abs() <= 0.001, "{means:?} {took:?}");
    assert!((means[1] - (0.7 * took[0] + 0.3 * took[1])).abs() <= 0.001, "{means:?} {took:?}");
}

#[test]
fn startup_times_vary_and_ready_replicas_die_as_often_as_they_should() {
    const REPLICAS: usize = 1000;
    let disturbances = Disturbances { startup_variation: 0.5, mtbf: Some(S(12.0)), dispatchers: 1 };
    let mut plant =
        Plant::new(PlantSettings { disturbances, ..PlantSettings::simple(TimeDistribution::Constant(S(0.1))) }, 0, 1);
    plant.scale(REPLICAS);
    let mut none = every(0.0, 0.0, 0.1).take(0).peekable();
    let mut ready = |seconds: f64| {
        plant.run(&mut none, S(seconds));
        let Replicas { ready, starting, .. } = plant.observe().replicas;
        assert_eq!(ready + starting, REPLICAS, "dead replicas are replaced at once");
        ready as f64
    };
    // Half of the starts end within the median, which is 3 s / √(1 + 0.5²). Of the replicas that were ready then, few
    // have died.
    let early = ready(3.0 / 1.25_f64.sqrt()) / REPLICAS as f64;
    assert!((0.42..0.5).contains(&early), "{early}");
    // A replica starts for 3 s and is ready for 12 s, on average.
    let mean = (0..1000).map(|second| ready(100.0 + f64::from(second))).sum::<f64>() / 1000.0;
    assert_near(mean, 0.8 * REPLICAS as f64);
}

#[test]
fn a_request_whose_replica_dies_is_sent_again_once() {
    let disturbances = Disturbances { mtbf: Some(S(2.0)), ..Disturbances::NONE };
    let endless = TimeDistribution::Constant(HOUR);
    let mut plant =
        Plant::new(PlantSettings { disturbances, deadline: 2 * HOUR, ..PlantSettings::simple(endless) }, 1, 1);
    let mut one = every(1.0, 0.0, 3600.0).take(1).peekable();
    let mut states = Vec::new();
    for step in 0..1000 {
        plant.run(&mut one, S(f64::from(step) / 10.0));
        let seen = plant.observe();
        states.push((seen.replicas.ready, seen.queue_length, seen.in_flight, plant.totals().failed));
    }
    states.dedup();
    // The request is in flight, waits for the replacement, and is in flight again. Then it has failed.
    let expected = [(1, 0.0, 1.0, 0), (0, 1.0, 0.0, 0), (1, 0.0, 1.0, 0), (0, 0.0, 0.0, 1)];
    assert_eq!(states[..4], expected);
}

#[test]
fn replicas_that_cannot_be_placed_are_blocked() {
    let mut plant =
        Plant::new(PlantSettings { max_placed: 2, ..PlantSettings::simple(TimeDistribution::Constant(S(0.1))) }, 1, 1);
    plant.scale(5);
    assert_eq!(
        plant.observe().replicas,
        Replicas { desired: 5, ready: 1, starting: 1, blocked: 3, ..Replicas::default() }
    );
}

#[test]
fn passes_slow_down_if_there_are_too_few_cores() {
    let wait = |cores| {
        let mut plant =
            Plant::new(PlantSettings { cores, ..PlantSettings::simple(TimeDistribution::Constant(S(0.1))) }, 4, 1);
        plant.run(&mut every(0.0, 0.0, 0.1).take(4).peekable(), S(1.0));
        plant.observe().service.sum
    };
    assert!((wait(4.0) - 0.4).abs() < 1e-9);
    // The third pass is one of three passes on two cores, so it takes 1.5 times as long. The fourth takes twice as
    // long.
    assert!((wait(2.0) - (0.1 + 0.1 + 0.15 + 0.2)).abs() < 1e-9);
}

#[test]
fn a_replica_with_full_slots_reaches_the_full_speed() {
    let one = PlantSettings::simple(TimeDistribution::Constant(S(0.05)));
    for settings in [
        one.clone(),
        PlantSettings { slots: 2, ..one.clone() },
        PlantSettings { slots: 16, max_batch: 8, batch_growth: 0.25, ..one.clone() },
        PlantSettings { slots: 16, workers: 2, max_batch: 4, batch_growth: 0.5, ..one },
    ] {
        let rate = settings.full_speed().requests_per_second;
        let mut plant = Plant::new(settings, 1, 1);
        plant.run(&mut every(0.001, 0.0, 0.05), S(100.0));
        assert_near(plant.observe().service.count() / 100.0, rate);
    }
}

#[test]
fn a_pass_computes_the_waiting_requests_and_takes_longer_for_more() {
    let batches = PlantSettings {
        slots: 4,
        max_batch: 3,
        batch_growth: 0.5,
        ..PlantSettings::simple(TimeDistribution::Constant(S(0.1)))
    };
    let mut plant = Plant::new(batches, 1, 1);
    // Five requests arrive at once. The first is computed alone until 0.1 s, and the next three together until
    // 0.3 s. The fifth gets a slot at 0.1 s and is computed alone until 0.4 s.
    plant.run(&mut every(0.0, 0.0, 0.1).take(5).peekable(), S(0.05));
    assert_eq!((plant.observe().in_flight, plant.observe().queue_length), (4.0, 1.0));
    plant.run(&mut every(0.0, 0.0, 0.1).take(0).peekable(), S(1.0));
    let seen = plant.observe();
    assert_eq!((seen.work.count(), seen.service.count()), (5.0, 5.0));
    assert!((seen.service.sum - (0.1 + 3.0 * 0.3 + 0.3)).abs() < 1e-9, "{}", seen.service.sum);
    assert!((seen.work.sum - 0.4).abs() < 1e-9, "{}", seen.work.sum);
    assert!((seen.latency.sum - (0.1 + 3.0 * 0.3 + 0.4)).abs() < 1e-9, "{}", seen.latency.sum);
}

#[test]
fn a_busy_replica_refuses_the_requests_of_a_second_dispatcher() {
    let disturbances = Disturbances { dispatchers: 2, ..Disturbances::NONE };
    let two = PlantSettings { disturbances, ..PlantSettings::simple(TimeDistribution::Constant(S(0.1))) };
    let mut plant = Plant::new(two, 1, 1);
    // Eight requests arrive at once. The dispatcher of the first one gets the slot again at each of its answers, until
    // it has no request left. The other dispatcher tries every 10 ms, and gets the slot at its next try.
    plant.run(&mut every(0.0, 0.0, 0.1).take(8).peekable(), S(0.05));
    assert_eq!((plant.observe().in_flight, plant.observe().queue_length), (1.0, 7.0));
    assert_eq!(plant.observe().capacity, 1.0, "the dispatchers share the replica");
    let mut none = every(0.0, 0.0, 0.1).take(0).peekable();
    plant.run(&mut none, S(0.8099));
    assert_eq!((plant.observe().in_flight, plant.observe().queue_length), (1.0, 0.0));
    plant.run(&mut none, S(0.8101));
    assert_eq!(plant.observe().in_flight, 0.0);
    // There is a refusal at 0 s, and ten for each 0.1 s until the first dispatcher has no request left.
    let busy = plant.totals().busy;
    assert!((11..=71).contains(&busy) && busy % 10 == 1, "{busy} refusals");
}

#[test]
fn cpu_usage_is_a_mean_over_fifteen_seconds() {
    let mut plant = Plant::new(PlantSettings::simple(TimeDistribution::Constant(S(0.25))), 1, 1);
    let mut arrivals = every(0.5, 0.0, 0.25);
    plant.run(&mut arrivals, S(29.0));
    assert_eq!(plant.pods()[0].usage, None, "the mean needs two samples");
    plant.run(&mut arrivals, S(31.0));
    let usage = plant.pods()[0].usage.expect("there are two samples");
    assert!((usage.cores - 0.5).abs() < 0.02, "{usage:?}");
    assert_eq!((usage.age, usage.window), (S(1.0), S(15.0)));
}

proptest! {
    #[test]
    fn every_request_is_counted_once(
        order in prop::sample::select(vec![Order::LateLast, Order::Fifo]),
        rates in prop::collection::vec(0..120_u32, 1..20),
        scales in prop::collection::vec(0..5_usize, 1..20),
        variation in 0.0..1.5,
        slots in 1..4_usize,
        dispatchers in 1..4_usize,
        mtbf in prop::option::of(1.0..10.0),
    ) {
        let service_times = TimeDistribution::new(S(0.06), variation);
        let mtbf = mtbf.map(S);
        let disturbances = Disturbances { startup_variation: variation, mtbf, dispatchers };
        let common = PlantSettings::simple(service_times.clone());
        let mut plant = Plant::new(PlantSettings { order, slots, max_queue_length: 50, disturbances, ..common }, 1, 1);
        let workload = Workload { per_second: rates.iter().map(|&rate| f64::from(rate)).collect() };
        let mut arrivals = generate(&workload, ArrivalProcess::Poisson, &service_times, 3).peekable();
        for (second, &replicas) in scales.iter().cycle().take(rates.len()).enumerate() {
            plant.scale(replicas);
            plant.run(&mut arrivals, S(second as f64 + 1.0));
            let seen = plant.observe();
            prop_assert!(seen.in_flight <= (seen.capacity + 5.0 * slots as f64));
            // Requests of dead replicas return to a full queue, too.
            prop_assert!(seen.queue_length <= (50 * dispatchers + 5 * slots) as f64);
        }
        plant.finish_all();
        let (seen, totals) = (plant.observe(), plant.totals().clone());
        prop_assert_eq!((seen.queue_length, seen.in_flight), (0.0, 0.0));
        let answered = seen.latency.count() as u64;
        prop_assert!(totals.in_time <= answered);
        prop_assert!(dispatchers > 1 || totals.busy == 0);
        // A request that is answered after its deadline counts as answered and as expired. So the two sums are
        // bounds of `offered`, and need not equal it.
        prop_assert!(answered + totals.shed + totals.failed <= totals.offered);
        prop_assert!(totals.offered <= answered + totals.shed + totals.failed + totals.expired);
    }
}
