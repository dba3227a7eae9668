//! What the filter believes about the load under steady and changing arrivals.

use law::load_filter::LoadFilter;

/// Seconds of work for each request.
const WORK: f64 = 0.1;

/// The time until a new replica serves, in seconds.
const LEAD: f64 = 3.5;

/// Lets the filter learn half seconds with these numbers of arrivals.
fn learn(filter: &mut LoadFilter, arrivals: impl IntoIterator<Item = u32>) {
    arrivals.into_iter().for_each(|arrivals| filter.learn(0.5, arrivals.into(), WORK, LEAD));
}

/// `ticks` half seconds with `mean` arrivals on average, which vary.
fn about(mean: u32, ticks: usize) -> impl Iterator<Item = u32> {
    (0..ticks).map(move |tick| mean + [0, 1, 2, 0, 1][tick % 5] - [0, 0, 0, 2, 2][tick % 5])
}

#[test]
fn a_steady_load_is_known_ever_better() {
    let mut filter = LoadFilter::new(1, 10);
    let mut width = f64::INFINITY;
    for _ in 0..3 {
        learn(&mut filter, about(10, 100));
        let (low, high) = (filter.quantile(0.05), filter.quantile(0.95));
        assert!((filter.mean() - 2.0).abs() < 0.1 && low <= 2.05 && 1.95 <= high, "{low} {} {high}", filter.mean());
        assert!(high - low <= width);
        width = high - low;
    }
    assert!(filter.jumps_per_second() < 0.01, "{}", filter.jumps_per_second());
}

#[test]
fn a_jump_is_believed_within_seconds_and_sooner_when_it_comes_back() {
    let mut filter = LoadFilter::new(1, 20);
    let mut believed_after = Vec::new();
    for _ in 0..2 {
        learn(&mut filter, about(5, 240));
        let after = (1..20).find(|_| {
            learn(&mut filter, [12]);
            filter.mean() > 1.9
        });
        believed_after.push(after.expect("the jump is believed"));
        learn(&mut filter, about(12, 60));
    }
    // Half seconds.
    assert!(believed_after[0] <= 5 && believed_after[1] < believed_after[0], "{believed_after:?}");
    let mut calm = LoadFilter::new(1, 20);
    learn(&mut calm, about(5, 600));
    assert!(filter.jumps_per_second() > calm.jumps_per_second());
}

#[test]
fn one_busy_half_second_is_chance() {
    let mut filter = LoadFilter::new(1, 10);
    learn(&mut filter, about(3, 200).chain([8]));
    assert!(filter.mean() < 0.8, "{}", filter.mean());
}

#[test]
fn the_distant_future_is_the_past() {
    let mut filter = LoadFilter::new(1, 10);
    learn(&mut filter, about(4, 400).chain(about(20, 400)));
    let mean = |seconds| -> f64 {
        let ahead = filter.ahead(seconds);
        assert!((ahead.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        ahead.iter().zip(filter.loads()).map(|(probability, load)| probability * load).sum()
    };
    let (now, soon, late) = (mean(0.0), mean(10.0), mean(1e6));
    assert!((now - 4.0).abs() < 0.2 && soon < now && soon > late && (2.0..3.0).contains(&late), "{now} {soon} {late}");
}

#[test]
fn requests_that_cost_more_or_less_are_no_jump() {
    for factor in [0.25, 0.6, 1.7, 4.0] {
        let mut filter = LoadFilter::new(1, 10);
        learn(&mut filter, about(10, 400));
        let before = filter.jumps_per_second();
        filter.learn(0.5, 10.0, WORK * factor, LEAD);
        assert!((filter.mean() / (2.0 * factor) - 1.0).abs() < 0.05, "{factor}: {} erlangs", filter.mean());
        (0..20).for_each(|_| filter.learn(0.5, 10.0, WORK * factor, LEAD));
        assert!(filter.jumps_per_second() <= before, "{factor}: {} jumps/s", filter.jumps_per_second());
    }
}

#[test]
fn assumed_jumps_are_forgotten() {
    // Replicas that start slowly make the filter assume more jumps at first.
    let mut filter = LoadFilter::new(1, 10);
    for _ in 0..7200 {
        filter.learn(0.5, 10.0, WORK, 60.0);
    }
    let stays = (-120.0 * filter.jumps_per_second()).exp();
    assert!(stays > 0.9, "the load stays for two minutes with a probability of {stays}");
}
