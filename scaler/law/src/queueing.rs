//! Queueing theory: how long requests wait for replicas. Times in seconds, rates per second.

/// Probability that an arrival finds all `servers` busy, at an offered load of `load` erlangs (arrival rate × service
/// time). 1 when the servers cannot keep up.
///
/// Source: Erlang C by the recursion of Erlang B, B(n) = a·B(n−1) / (n + a·B(n−1)), C = B / (1 − ρ(1 − B)).
pub fn erlang_c(servers: usize, load: f64) -> f64 {
    let blocking = (1..=servers).fold(1.0, |blocking, n| next_blocking(blocking, n, load));
    if servers == 0 { 1.0 } else { delayed(blocking, servers, load) }
}

/// The service of one replica.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Service {
    /// Mean time that a request costs a replica, seconds.
    pub mean: f64,
    /// Coefficient of variation of that time: standard deviation ÷ mean.
    pub variation: f64,
}

impl Service {
    /// Probability that a request waits longer than `wait` seconds for one of `servers`.
    ///
    /// Source: C(n, a) · exp(−2·t·(n/S − λ) / (1 + cs²)): the exponential tail of M/M/n, its decay scaled to the
    /// service's variation as Kingman's formula scales the mean.
    pub fn waits_longer(&self, servers: usize, arrivals_per_second: f64, wait: f64) -> f64 {
        self.tail(erlang_c(servers, arrivals_per_second * self.mean), servers, arrivals_per_second, wait)
    }

    /// The fewest servers, up to `most`, with which a share of at most `share` of the requests waits longer than `wait`
    /// seconds.
    pub fn servers_for(&self, arrivals_per_second: f64, wait: f64, share: f64, most: usize) -> usize {
        let load = arrivals_per_second * self.mean;
        let mut blocking = 1.0;
        for servers in 1..most {
            blocking = next_blocking(blocking, servers, load);
            if self.tail(delayed(blocking, servers, load), servers, arrivals_per_second, wait) <= share {
                return servers;
            }
        }
        most
    }

    /// Share of all requests that waits longer than `wait`, if the share `delayed` waits at all.
    fn tail(&self, delayed: f64, servers: usize, arrivals_per_second: f64, wait: f64) -> f64 {
        let spare = servers as f64 / self.mean - arrivals_per_second;
        if spare <= 0.0 {
            return 1.0;
        }
        let decay = 2.0 * spare / (1.0 + self.variation.powi(2));
        delayed * (-decay * wait).exp()
    }
}

/// Erlang B with `servers`, from the value with one server fewer.
fn next_blocking(blocking: f64, servers: usize, load: f64) -> f64 {
    load * blocking / (servers as f64 + load * blocking)
}

/// Erlang C from Erlang B.
fn delayed(blocking: f64, servers: usize, load: f64) -> f64 {
    let utilisation = load / servers as f64;
    if utilisation >= 1.0 { 1.0 } else { blocking / (1.0 - utilisation * (1.0 - blocking)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn erlang_c_agrees_with_hand_computed_cases() {
        // One server: C = a. Two: C = a² / (2 + a), with a = 1: 1/3. Three, a = 2: 4/9 (tables).
        for (servers, load, expected) in
            [(1, 0.5, 0.5), (2, 1.0, 1.0 / 3.0), (3, 2.0, 4.0 / 9.0), (2, 2.0, 1.0), (0, 0.0, 1.0)]
        {
            assert!((erlang_c(servers, load) - expected).abs() < 1e-12, "{servers} servers, {load} erlang");
        }
    }

    #[test]
    fn the_fewest_servers_are_found() {
        let service = Service { mean: 0.1, variation: 0.0 };
        // 5/s on one server: C = 0.5, decay 2·(10−5) = 10/s, so P(W > 0.4) = 0.5·e⁻⁴ ≈ 0.009.
        for (rate, share, servers) in [(5.0, 0.01, 1), (5.0, 0.005, 2), (0.0, 0.01, 1), (1e6, 0.01, 9)] {
            assert_eq!(service.servers_for(rate, 0.4, share, 9), servers, "{rate}/s, {share}");
        }
    }

    proptest! {
        #[test]
        fn more_servers_never_wait_longer(arrivals in 0.0..200.0, mean in 0.001..1.0, variation in 0.0..2.0, wait in 0.0..2.0) {
            let service = Service { mean, variation };
            let tails: Vec<f64> = (1..40).map(|n| service.waits_longer(n, arrivals, wait)).collect();
            prop_assert!(tails.iter().all(|tail| (0.0..=1.0).contains(tail)));
            prop_assert!(tails.windows(2).all(|pair| pair[1] <= pair[0] + 1e-12));
        }
    }
}
