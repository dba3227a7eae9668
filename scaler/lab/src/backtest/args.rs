//! The flags of `lab backtest`.

use super::period::{self, Period};
use crate::simulate::flags::Flags;
use kubernetes::name::ObjectName;
use readings::flags::PrometheusFlags;
use service::options::positive_duration;
use std::path::PathBuf;
use std::time::Duration;

/// The help text of `--prometheus-selector`. The text of the scaler's flag names dispatchers only.
const SELECTOR: &str = "Label matchers that select the series of the dispatchers, the scaler and the replicas, such as \
                        namespace=\"shop\"; all series must have these labels";

/// Compares the attainment and the cost of laws on recorded load, in virtual time. A Prometheus has recorded the
/// arrivals at the dispatchers and the properties of the replicas. A flag overrides a recorded value. The row named
/// recorded has what happened.
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("prometheus", |argument| argument.required(true)),
    mut_arg("prometheus_selector", |argument| argument.help(SELECTOR)),
    after_help = "Examples:\n  \
    lab backtest --prometheus http://localhost:9090\n  \
    lab backtest --prometheus https://metrics.example/prometheus --prometheus-token-file token \\\n    \
    --prometheus-selector 'namespace=\"shop\"' --since 7days --step 60s --max 20 --html week.html\n  \
    lab backtest --prometheus http://localhost:9090 --since 26h --until 2h --policy slo,cpu:70 --startup 20s\n  \
    lab backtest --prometheus http://localhost:9090 --policy slo --hpa shop/replica"
)]
pub struct Args {
    /// Beginning of the period, as a time before now
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = period)]
    pub since: Duration,
    /// End of the period, as a time before now
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub until: Duration,
    /// Time between two samples of the arrivals; a time below the scrape interval of the Prometheus gives no more
    /// detail
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = positive_duration)]
    pub step: Duration,
    /// HorizontalPodAutoscaler whose specification is replayed as another law, read from the cluster of the kubeconfig or
    /// of the service account; its metrics must be of the processor use of pods; may be repeated
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub hpa: Vec<ObjectName>,
    /// YAML or JSON file with a HorizontalPodAutoscaler, as --hpa; may be repeated
    #[arg(long, value_name = "FILE")]
    pub hpa_file: Vec<PathBuf>,
    /// The flags of the Prometheus
    #[command(flatten)]
    pub access: PrometheusFlags,
    /// The flags of the laws, the plant and the report
    #[command(flatten)]
    pub flags: Flags,
}

impl Args {
    /// The period of the backtest. `now` is the time since 1970.
    ///
    /// # Errors
    /// If the flags give no valid period; see [`period::Error`].
    pub fn period(&self, now: Duration) -> Result<Period, period::Error> {
        Period::new(now, self.since, self.until, self.step)
    }
}

/// Parses a time that is longer than zero. Recorded histories are longer than the durations that other flags take.
fn period(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0s".into()),
        Ok(period) => Ok(period),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn errors_name_the_invalid_flag() {
        let outcome = |flags: &[&str]| {
            let cli = Cli::try_parse_from(["backtest"].iter().chain(flags)).map_err(|error| error.to_string())?;
            cli.args.flags.check().map_err(|error| error.to_string())?;
            cli.args.access.selector().map_err(|error| error.to_string())?;
            cli.args.period(Duration::from_secs(1_800_000_000)).map_err(|error| error.to_string())
        };
        let base = "--prometheus=http://a:9090";
        assert_eq!(outcome(&[base]), Ok(Period { start: 1_799_913_600, step: 15, steps: 5760 }));
        for (flags, word) in [
            (&[][..], "--prometheus <URL>"),
            (&["--prometheus=a:9090"], "neither http nor https"),
            (&[base, "--prometheus-selector={a=\"b\"}"], "braces"),
            (&[base, "--since=0s"], "--since"),
            (&[base, "--since=yesterday"], "--since"),
            (&[base, "--since=60y"], "before 1970"),
            (&[base, "--since=10y", "--step=1s"], "give --step 316s"),
            (&[base, "--until=-1h"], "--until"),
            (&[base, "--until=24h"], "--until"),
            (&[base, "--step=0s"], "--step"),
            (&[base, "--step=500ms"], "--step"),
            (&[base, "--step=2days"], "2days"),
            (&[base, "--policy=magic"], "magic"),
            (&[base, "--hpa=replica"], "NAMESPACE/NAME"),
            (&[base, "--hpa=Shop/replica"], "\"Shop\" cannot be a namespace"),
            (&[base, "--min=9"], "--min (9)"),
            (&[base, "--slots=0"], "--slots"),
            (&[base, "--service-variation=-1"], "--service-variation"),
        ] {
            let error = outcome(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }
}
