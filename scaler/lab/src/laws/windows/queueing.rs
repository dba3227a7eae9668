//! Queueing theory: how long requests wait for replicas. Times are in seconds, and rates are per second.

/// The probability that an arrival finds all `servers` busy. `load` is the offered load in erlangs: arrival rate ×
/// service time. The probability is 1 if the servers cannot keep up.
///
/// Source: Erlang C by the recursion of Erlang B, B(n) = a·B(n−1) / (n + a·B(n−1)), C = B / (1 − ρ(1 − B)).
pub fn erlang_c(servers: usize, load: f64) -> f64 {
    let blocking = (1..=servers).fold(1.0, |blocking, n| next_blocking(blocking, n, load));
    if servers == 0 { 1.0 } else { delayed(blocking, servers, load) }
}

/// How long one replica takes for a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Service {
    /// The mean time that a request costs a replica, in seconds.
    pub mean: f64,
    /// The coefficient of variation of the time that a request costs: standard deviation ÷ mean.
    pub variation: f64,
}

impl Service {
    /// The probability that a request waits longer than `wait` seconds for one of `servers` servers.
    ///
    /// Source: C(n, a) · exp(−2·t·(n/S − λ) / (1 + cs²)). This is the exponential tail of M/M/n. Its decay is scaled to
    /// the variation of the service time, as Kingman's formula scales the mean wait.
    pub fn waits_longer(&self, servers: usize, arrivals_per_second: f64, wait: f64) -> f64 {
        self.tail(erlang_c(servers, arrivals_per_second * self.mean), servers, arrivals_per_second, wait)
    }

    /// The fewest servers with which at most `share` of the requests, 0 to 1, wait longer than `wait` seconds. It is
    /// `most` if fewer servers do not suffice.
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

    /// The share of all requests that wait longer than `wait` seconds, if the share `delayed` waits at all.
    fn tail(&self, delayed: f64, servers: usize, arrivals_per_second: f64, wait: f64) -> f64 {
        let spare = servers as f64 / self.mean - arrivals_per_second;
        if spare <= 0.0 {
            return 1.0;
        }
        let decay = 2.0 * spare / (1.0 + self.variation.powi(2));
        delayed * (-decay * wait).exp()
    }
}

/// Erlang B with `servers` servers. `blocking` is Erlang B with one server fewer.
fn next_blocking(blocking: f64, servers: usize, load: f64) -> f64 {
    load * blocking / (servers as f64 + load * blocking)
}

/// Erlang C with `servers` servers. `blocking` is Erlang B with the same number of servers.
fn delayed(blocking: f64, servers: usize, load: f64) -> f64 {
    let utilisation = load / servers as f64;
    if utilisation >= 1.0 { 1.0 } else { blocking / (1.0 - utilisation * (1.0 - blocking)) }
}
