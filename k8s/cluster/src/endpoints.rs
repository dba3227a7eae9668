//! Measures what thousands of endpoints cost a dispatcher and a scaler, with a real API server. One server answers at the
//! addresses of all replicas, and the endpoints, the Deployment and the pods are objects only.

mod churn;
mod interface;
mod objects;
mod program;
mod relay;
mod replicas;
mod sample;

use crate::control_plane::ControlPlane;
use crate::network::{IpFamilies, Network};
use crate::wait::wait_for;
use crate::{node, paths};
use anyhow::{Context, Result, ensure};
use churn::{Published, change_pods, send, write_status};
use clap::ValueEnum;
use hyper::Request;
use interface::Interface;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use objects::NAME;
use program::Program;
use relay::{Relay, Rules};
use replicas::Replicas;
use sample::Table;
use serde_json::json;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Time in which a dispatcher must have all replicas, a scaler all pods, and the controllers must create all pods.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The time over which an idle program is measured.
const IDLE: Duration = Duration::from_secs(6);

/// Changes that are made one by one for the delay of a single change.
const SINGLE_CHANGES: usize = 10;

/// Changes at 20 a second.
const CHURN_CHANGES: usize = 160;

/// Statuses of pods that are written at once.
const WRITERS: usize = 16;

/// Requests with an image that are sent at once.
const CLIENTS: usize = 32;

/// The most endpoints. The object of the Endpoints must fit into a request to etcd, 1.5 MiB.
const MAX_COUNT: i64 = 5000;

/// The addresses of the programs.
const DISPATCHER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5052);
const SCALER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5053);

/// Flags of `cluster endpoints`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Numbers of endpoints, each of which is measured
    #[arg(long, value_delimiter = ',', default_value = "1000,4000")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT))]
    pub count: Vec<u32>,
    /// Rounds, each with a new dispatcher and a new scaler
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Measurements; by default all
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Subject>,
}

impl Options {
    /// Checks that no measurement is asked for twice: each has a namespace of its own.
    ///
    /// # Errors
    /// If a list has a value twice. The message names the flag.
    fn check(&self) -> Result<()> {
        for (index, count) in self.count.iter().enumerate() {
            ensure!(!self.count[..index].contains(count), "--count has {count} twice; give each value once");
        }
        for (index, subject) in self.only.iter().enumerate() {
            ensure!(!self.only[..index].contains(subject), "--only has {subject:?} twice; give each value once");
        }
        Ok(())
    }
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// A dispatcher with EndpointSlices of 100 endpoints each
    Slices,
    /// A dispatcher with one object that has all endpoints (core/v1)
    Endpoints,
    /// A scaler with a pod for each endpoint
    Pods,
}

/// The parts that all measurements share.
struct Bench {
    client: Client,
    slices_version: String,
    folder: PathBuf,
}

/// Starts a control plane in `network` and prints a table for each number of endpoints. `binaries` is the folder with the
/// programs of the control plane.
///
/// # Errors
/// If a program does not start, or a change does not reach it.
pub async fn run(network: &Network, binaries: PathBuf, options: &Options) -> Result<()> {
    ensure!(network.families == IpFamilies::default(), "cluster endpoints measures IPv4 only; leave --ip-family out");
    options.check()?;
    let folder = paths::output("endpoints");
    let _lock = paths::reserve(&folder)?;
    network.answer_at(objects::RANGE)?;
    let _replicas = Replicas::start()?;
    let mut control_plane = ControlPlane::start(binaries, folder.join("control-plane"), network.families).await?;
    // With the default of 20 requests a second, thousands of pods would take minutes.
    control_plane.restart_controller_manager(&["--kube-api-qps=1000", "--kube-api-burst=1000"])?;
    let client = control_plane.client().await?;
    let slices_version = if node::serves_slices(&client).await? { "v1" } else { "v1beta1" }.to_owned();
    println!("the API server has EndpointSlices of discovery.k8s.io/{slices_version}");
    let bench = Bench { client, slices_version, folder };
    let subjects = if options.only.is_empty() { Subject::value_variants() } else { &options.only };
    for count in options.count.iter().map(|&count| count as usize) {
        for &subject in subjects {
            match subject {
                Subject::Slices => bench.measure_dispatcher(Interface::Slices, count, options.rounds).await?,
                Subject::Endpoints => bench.measure_dispatcher(Interface::Endpoints, count, options.rounds).await?,
                Subject::Pods => bench.measure_scaler(count, options.rounds).await?,
            }
        }
    }
    Ok(())
}

impl Bench {
    async fn measure_dispatcher(&self, interface: Interface, count: usize, rounds: u32) -> Result<()> {
        let namespace = format!("{}-{count}", interface.resource());
        self.create_namespace(&namespace).await?;
        let path = format!("/api/v1/namespaces/{namespace}/services");
        send(&self.client, Request::post(path), &objects::service()).await.context("create the Service")?;
        let published = Published {
            client: &self.client,
            interface,
            namespace: &namespace,
            slices_version: &self.slices_version,
            parts: objects::parts(interface, count),
        };
        published.create().await?;
        let mut table = Table::default();
        for round in 1..=rounds {
            eprintln!("{count} {}: round {round} of {rounds}", interface.resource());
            self.dispatcher_round(&published, count, &mut table).await?;
        }
        println!("\n{}", table.to_markdown(&format!("dispatcher, {count} endpoints, {}", interface.resource())));
        Ok(())
    }

    async fn dispatcher_round(&self, published: &Published<'_>, count: usize, table: &mut Table) -> Result<()> {
        let relay = self.relay(published.interface, published.interface.resource()).await?;
        let flags = [format!("--replicas=kubernetes:{}/{NAME}:http", published.namespace)];
        let start = Instant::now();
        let mut dispatcher = self.start("dispatcher", &flags, DISPATCHER, &relay)?;
        dispatcher.wait_for_joins(count, TIMEOUT).await?;
        table.add("start to all replicas ready, s", [start.elapsed().as_secs_f64()]);
        table.add("list, kB", [kilobytes(relay.bytes())]);
        let listed = dispatcher.usage()?;
        table.add("processor time of the start, s", [listed.seconds]);
        table.add("memory after the start, MiB", [listed.mebibytes]);
        table.add("most memory of the start, MiB", [listed.peak_mebibytes]);

        tokio::time::sleep(IDLE).await;
        let idle = dispatcher.usage()?;
        table.add("idle, % of a core", [share(idle.seconds - listed.seconds, IDLE)]);
        let (metrics, took) = dispatcher.scrape().await?;
        table.add("/metrics, kB", [kilobytes(metrics.len() as u64)]);
        table.add("/metrics, ms", [took.as_secs_f64() * 1e3]);

        let bytes = relay.bytes();
        let single = published.change(&dispatcher, SINGLE_CHANGES, true).await?;
        table.add("watch for one change, kB", [kilobytes(relay.bytes() - bytes) / SINGLE_CHANGES as f64]);
        table.add("one change, answer of the API server, ms", milliseconds(&single.written));
        table.add("one change, in the rotation, ms", milliseconds(&single.joined));

        let (began, before, bytes) = (Instant::now(), dispatcher.usage()?, relay.bytes());
        let churn = published.change(&dispatcher, CHURN_CHANGES, false).await?;
        let (took, after) = (began.elapsed(), dispatcher.usage()?);
        table.add("churn, changes/s", [CHURN_CHANGES as f64 / took.as_secs_f64()]);
        table.add("churn, % of a core", [share(after.seconds - before.seconds, took)]);
        table.add("churn, watch, kB/s", [kilobytes(relay.bytes() - bytes) / took.as_secs_f64()]);
        table.add("churn, in the rotation, ms", milliseconds(&churn.joined));
        table.add("memory after the churn, MiB", [after.mebibytes]);
        self.measure_connections(&mut dispatcher, count, table).await?;
        dispatcher.end().await
    }

    /// Lets the dispatcher open a connection to each replica, and measures its memory then.
    async fn measure_connections(&self, dispatcher: &mut Program, count: usize, table: &mut Table) -> Result<()> {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let requests = count / CLIENTS + usize::from(client < count % CLIENTS);
            clients.spawn(post(DISPATCHER, requests));
        }
        while let Some(ended) = clients.join_next().await {
            ended.context("wait for a client")??;
        }
        let open = dispatcher.connections(objects::PORT)?;
        table.add("idle connections to replicas", [open as f64]);
        Ok(())
    }

    async fn measure_scaler(&self, count: usize, rounds: u32) -> Result<()> {
        let namespace = format!("pods-{count}");
        self.create_namespace(&namespace).await?;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
        let began = Instant::now();
        send(&self.client, Request::post(path), &objects::deployment(count)).await.context("create the Deployment")?;
        let pods = self.make_ready(&namespace, count).await?;
        eprintln!("{count} pods are ready after {:.0} s", began.elapsed().as_secs_f64());
        let mut table = Table::default();
        for round in 1..=rounds {
            eprintln!("scaler of {count} pods: round {round} of {rounds}");
            self.scaler_round(&namespace, &pods, &mut table).await?;
        }
        println!("\n{}", table.to_markdown(&format!("scaler, {count} pods")));
        Ok(())
    }

    /// Waits until the controllers have created all pods, and makes them ready. Returns their names.
    async fn make_ready(&self, namespace: &str, count: usize) -> Result<Vec<String>> {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let pods = wait_for("the controllers to create all pods", TIMEOUT, async || {
            // The list is long, so it is not asked for all the time.
            tokio::time::sleep(Duration::from_secs(2)).await;
            let pods = api.list_metadata(&ListParams::default()).await.context("list the pods")?.items;
            Ok((pods.len() == count).then_some(pods))
        })
        .await?;
        let names: Vec<String> = pods.into_iter().filter_map(|pod| pod.metadata.name).collect();
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (client, namespace) = (self.client.clone(), namespace.to_owned());
            let own: Vec<_> = names.iter().cloned().enumerate().skip(writer).step_by(WRITERS).collect();
            writers.spawn(async move {
                for (index, name) in own {
                    write_status(&client, &namespace, &name, index, true).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.context("wait for a writer")??;
        }
        Ok(names)
    }

    async fn scaler_round(&self, namespace: &str, pods: &[String], table: &mut Table) -> Result<()> {
        let count = pods.len();
        let list = self.folder.join("replicas");
        let addresses = (0..count).map(|index| format!("{}:{}\n", objects::address(index), objects::PORT));
        fs::write(&list, addresses.collect::<String>()).with_context(|| format!("write {}", list.display()))?;
        let relay = self.relay(Interface::Slices, "pods").await?;
        let from_file = [format!("--replicas=file:{}", list.display())];
        let mut dispatcher = self.start("dispatcher", &from_file, DISPATCHER, &relay)?;
        dispatcher.wait_for_joins(count, TIMEOUT).await?;
        let flags = [
            format!("--target=deployment:{namespace}/{NAME}"),
            format!("--dispatcher={DISPATCHER}"),
            format!("--min={count}"),
            format!("--max={count}"),
        ];
        let start = Instant::now();
        let mut scaler = self.start("scaler", &flags, SCALER, &relay)?;
        let ready = service::wire::metric::READY_REPLICAS;
        wait_for("the scaler to have all pods", TIMEOUT, async || {
            Ok(scaler.value(ready).await.filter(|value| *value >= count as f64))
        })
        .await?;
        table.add("start to all pods known, s", [start.elapsed().as_secs_f64()]);
        table.add("list, kB", [kilobytes(relay.bytes())]);
        let listed = scaler.usage()?;
        table.add("processor time of the start, s", [listed.seconds]);
        table.add("memory after the start, MiB", [listed.mebibytes]);
        table.add("most memory of the start, MiB", [listed.peak_mebibytes]);
        tokio::time::sleep(IDLE).await;
        let idle = scaler.usage()?;
        table.add("idle, % of a core", [share(idle.seconds - listed.seconds, IDLE)]);

        let (began, before, bytes) = (Instant::now(), scaler.usage()?, relay.bytes());
        change_pods(&self.client, namespace, pods, CHURN_CHANGES).await?;
        let (took, after) = (began.elapsed(), scaler.usage()?);
        table.add("churn, changes/s", [CHURN_CHANGES as f64 / took.as_secs_f64()]);
        table.add("churn, % of a core", [share(after.seconds - before.seconds, took)]);
        table.add("churn, watch, kB/s", [kilobytes(relay.bytes() - bytes) / took.as_secs_f64()]);
        table.add("memory after the churn, MiB", [after.mebibytes]);
        scaler.end().await?;
        dispatcher.end().await
    }

    async fn relay(&self, interface: Interface, counted: &'static str) -> Result<Relay> {
        let rules = Rules { interface, slices_version: self.slices_version.clone(), counted };
        Relay::start(self.client.clone(), rules).await
    }

    fn start(&self, name: &str, flags: &[String], address: SocketAddr, relay: &Relay) -> Result<Program> {
        Program::start(name, flags, address, &format!("http://{}", relay.address), &self.folder)
    }

    async fn create_namespace(&self, name: &str) -> Result<()> {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let created = send(&self.client, Request::post("/api/v1/namespaces"), &namespace).await;
        created.with_context(|| format!("create the namespace {name}"))?;
        // Without this account, which a controller creates, the API server refuses pods.
        let path = format!("/api/v1/namespaces/{name}/serviceaccounts/default");
        wait_for("the ServiceAccount of the namespace", TIMEOUT, async || {
            Ok(self.client.request_text(Request::get(&path).body(Vec::new())?).await.ok())
        })
        .await?;
        Ok(())
    }
}

/// Posts `requests` images to the dispatcher at `address`, one after the other on one connection.
async fn post(address: SocketAddr, requests: usize) -> Result<()> {
    let stream = tokio::net::TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    tokio::spawn(connection);
    for _ in 0..requests {
        let request = Request::post("/predict").header("host", "dispatcher").header("content-type", "image/jpeg");
        let image = http_body_util::Full::new(bytes::Bytes::from_static(b"image"));
        let answer = sender.send_request(request.body(image)?).await.context("post an image")?;
        ensure!(answer.status().is_success(), "the dispatcher answered an image with {}", answer.status());
        http_body_util::BodyExt::collect(answer.into_body()).await.context("read the answer")?;
    }
    Ok(())
}

fn kilobytes(bytes: u64) -> f64 {
    bytes as f64 / 1e3
}

/// Processor time as per cent of one core over `time`.
fn share(seconds: f64, time: Duration) -> f64 {
    seconds / time.as_secs_f64() * 100.0
}

fn milliseconds(seconds: &[f64]) -> impl Iterator<Item = f64> {
    seconds.iter().map(|seconds| seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn counts_that_etcd_cannot_hold_and_rounds_without_end_are_refused() {
        let parse = |flags: &[&str]| Cli::try_parse_from([&["endpoints"], flags].concat()).map(|cli| cli.options);
        for (flags, advice) in [
            (["--count", "0"], "1..=5000"),
            (["--count", "100,5001"], "1..=5000"),
            (["--rounds", "0"], "1..=100"),
            (["--rounds", "101"], "1..=100"),
            (["--only", "nodes"], "slices, endpoints, pods"),
        ] {
            let error = parse(&flags).expect_err("the value is out of range").to_string();
            assert!(error.contains(advice) && error.contains(flags[0]), "{flags:?}: {error}");
        }
        for (flags, word) in
            [(["--count", "100,200,100"], "--count has 100 twice"), (["--only", "pods,pods"], "--only has Pods twice")]
        {
            let error = parse(&flags).expect("each value is valid").check().expect_err("a value is there twice");
            assert!(error.to_string().contains(word), "{flags:?}: {error}");
        }
        let options = parse(&["--count", "100,200", "--only", "pods"]).expect("the flags are valid");
        options.check().expect("each value is there once");
        assert_eq!((options.count, options.only), (vec![100, 200], vec![Subject::Pods]));
    }
}
