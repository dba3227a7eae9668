//! Whether a client that is told when to come back is served then: a backlog, a request too impatient for it, and the
//! same request again and again until it is answered.

use crate::Bench;
use crate::client::Client;
use crate::figures::{Figures, Target};
use crate::load::{self, Offered, Outcome, Sample};
use crate::overload::Replicas;
use crate::stub::Stubs;
use crate::subject::Dispatcher;
use anyhow::{Context, Result, bail};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Of the dispatcher, and so of the backlog.
const DEADLINE: Duration = Duration::from_secs(10);

/// Of the impatient.
const PATIENCE: Duration = Duration::from_millis(500);

/// Between two tries.
const AGAIN: Duration = Duration::from_millis(100);

/// Requests from which the dispatcher learns the service time.
const LESSONS: usize = 60;

/// Retry-After is to be right within half.
const RATIO: Target = Target::Between(0.5, 1.5);

/// Builds up `backlog` seconds of work and compares.
///
/// # Errors
/// When nobody is shed, or nobody is answered afterwards.
pub(crate) fn measure(
    bench: &Bench,
    replicas: &Replicas,
    stubs: &Stubs,
    backlog: u32,
    figures: &mut Figures,
) -> Result<()> {
    let flags = ["--order=fifo".into(), "--queue-length=100000".into(), format!("--deadline={}s", DEADLINE.as_secs())];
    let dispatcher = bench.client.block_on(Dispatcher::start(&bench.program, &stubs.addresses, &flags))?;
    let client = Arc::new(Client::new(dispatcher.address));
    let runtime = bench.client.handle();
    let gap = Duration::from_secs_f64(1.5 / replicas.rate());
    let lessons: Vec<Duration> = (0..LESSONS as u32).map(|lesson| gap * lesson).collect();
    load::offer(runtime, &client, &lessons)?.check()?;
    eprintln!("a backlog of {backlog} s");
    bench.client.block_on(async {
        let count = (replicas.rate() * f64::from(backlog)) as usize;
        client.connect(count).await?;
        let start = Instant::now();
        let burst: Vec<_> =
            (0..count).map(|id| tokio::spawn(load::send(client.clone(), id, None, start, Duration::ZERO))).collect();
        let most = (count * 9 / 10) as u64;
        dispatcher.wait_for_queue(|length| length >= most, Duration::from_secs(2)).await.context("the burst")?;
        let waiting = dispatcher.queue_length().await?;
        let first = load::send(client.clone(), count, Some(PATIENCE), Instant::now(), Duration::ZERO).await;
        let Outcome::Shed(Some(told)) = first.outcome else {
            bail!("with {waiting} requests waiting, an impatient one was not shed with Retry-After: {first:?}")
        };
        let tries = until_answered(&client).await?;
        let of = |is: fn(&Outcome) -> bool| tries.samples.iter().filter(move |sample| is(&sample.outcome));
        let answered = of(|outcome| *outcome == Outcome::Answered).map(|sample| sample.at).min();
        let took = answered.context("no try was answered")?.as_secs_f64();
        let expired = of(|outcome| *outcome == Outcome::Expired).count();
        let mut shed = 0;
        for request in burst {
            match request.await?.outcome {
                Outcome::Answered => {}
                Outcome::Shed(_) => shed += 1,
                other => bail!("a request of the burst ended as {other:?}"),
            }
        }
        let name = |what| format!("retry_after_{what}_{backlog}s");
        figures.add(name("waiting"), format!("backlog of {backlog} s: waiting"), waiting as f64, "");
        figures.add(name("burst_shed"), "  of the burst, shed", f64::from(shed), "");
        figures.add(name("told"), "  told to come back after", told as f64, "s");
        figures.add(name("took"), "  served again after", took, "s");
        figures.add(name("ratio"), "  told ÷ took", told as f64 / took, "");
        figures.target(RATIO);
        figures.add(name("expired"), "  let in before that, and expired (504)", expired as f64, "");
        tries.check()
    })
}

/// Tries again and again until one was answered.
async fn until_answered(client: &Arc<Client>) -> Result<Offered> {
    let start = Instant::now();
    let mut ticks = tokio::time::interval(AGAIN);
    let mut tries: Vec<JoinHandle<Sample>> = Vec::new();
    let mut samples = Vec::new();
    while start.elapsed() < 2 * DEADLINE {
        ticks.tick().await;
        let now = Instant::now();
        tries.push(tokio::spawn(load::send(client.clone(), tries.len(), Some(PATIENCE), now, now - start)));
        while tries.first().is_some_and(JoinHandle::is_finished) {
            samples.push(tries.remove(0).await?);
        }
        if samples.iter().any(|sample| sample.outcome == Outcome::Answered) {
            break;
        }
    }
    for left in tries {
        samples.push(left.await?);
    }
    Ok(Offered { start, samples })
}
