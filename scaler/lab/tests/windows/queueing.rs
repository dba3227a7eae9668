//! The queueing theory against values that were computed by hand, and its monotony.

use lab::laws::windows::queueing::{Service, erlang_c};
use proptest::prelude::*;

#[test]
fn erlang_c_agrees_with_hand_computed_cases() {
    // One server: C = a. Two servers: C = a² / (2 + a), which is 1/3 for a = 1. Three servers, a = 2: 4/9, from tables.
    for (servers, load, expected) in
        [(1, 0.5, 0.5), (2, 1.0, 1.0 / 3.0), (3, 2.0, 4.0 / 9.0), (2, 2.0, 1.0), (0, 0.0, 1.0)]
    {
        assert!((erlang_c(servers, load) - expected).abs() < 1e-12, "{servers} servers, {load} erlang");
    }
}

#[test]
fn the_fewest_servers_are_found() {
    let service = Service { mean: 0.1, variation: 0.0 };
    // 5/s on one server: C = 0.5, and the decay is 2·(10−5) = 10/s. So P(W > 0.4) = 0.5·e⁻⁴ ≈ 0.009.
    for (rate, share, servers) in [(5.0, 0.01, 1), (5.0, 0.005, 2), (0.0, 0.01, 1), (1e6, 0.01, 9)] {
        assert_eq!(service.servers_for(rate, 0.4, share, 9), servers, "{rate}/s, {share}");
    }
}

proptest! {
    #[test]
    fn more_servers_never_make_requests_wait_longer(
        arrivals in 0.0..200.0, mean in 0.001..1.0, variation in 0.0..2.0, wait in 0.0..2.0
    ) {
        let service = Service { mean, variation };
        let tails: Vec<f64> = (1..40).map(|n| service.waits_longer(n, arrivals, wait)).collect();
        prop_assert!(tails.iter().all(|tail| (0.0..=1.0).contains(tail)));
        prop_assert!(tails.windows(2).all(|pair| pair[1] <= pair[0] + 1e-12));
    }
}
