//! Tests of replicas that stop without closing a connection, as a machine that hangs does. The replicas are processes of
//! their own, which get SIGSTOP.

use crate::process::{RunningDispatcher, WAIT_LIMIT};
use crate::steady::{Stopwatch, on_machine_with_pauses_up_to};
use crate::stub::{StubBehavior, StubReplica};
use std::io::Read;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

/// The variable with the number of slots and the service time in milliseconds of a stub that runs as a process.
const STUB: &str = "DISPATCHER_TEST_STUB";

/// The number of slots of each stub.
const CAPACITY: usize = 2;

/// The largest number of requests per second, so that the load needs a small part of the machine.
const MOST_PER_SECOND: f64 = 40.0;

/// The time within which an answer that a replica has sent reaches the dispatcher.
const IN_TRANSIT: Duration = Duration::from_millis(20);

/// The longest pause of the machine that no request of these tests misses its deadline for. The dispatcher leaves a
/// request 100 ms for its way to another replica.
const TOLERATED_PAUSE: Duration = Duration::from_millis(50);

/// A stub replica in a process of its own.
struct StubProcess {
    child: Child,
    address: String,
    /// The pipe is kept open, because the process fails if it cannot print.
    _output: BufReader<ChildStdout>,
}

impl StubProcess {
    async fn start(service_time: Duration) -> Self {
        // The process is this test program, with the test below as its only one.
        let mut command = Command::new(std::env::current_exe().expect("the system knows the path of this program"));
        command.args(["--exact", "stopped::stub_replica", "--ignored", "--nocapture"]);
        command.env(STUB, format!("{CAPACITY} {}", service_time.as_millis()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("the stub starts");
        let mut output = BufReader::new(child.stdout.take().expect("standard output is piped"));
        let announced = async {
            loop {
                let mut line = String::new();
                assert!(output.read_line(&mut line).await.expect("the line is UTF-8") > 0, "the stub has ended");
                // The test harness may print in the same line.
                if let Some((_, address)) = line.split_once("stub at ") {
                    return address.trim().to_owned();
                }
            }
        };
        let address = tokio::time::timeout(WAIT_LIMIT, announced).await.expect("the stub tells its address in time");
        Self { child, address, _output: output }
    }

    /// Sends the process a signal. After STOP, its connections stay open and nothing is answered, until CONT.
    async fn signal(&self, name: &str) {
        let process = self.child.id().expect("the stub runs").to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status().await.expect("the command `kill` exists");
        assert!(sent.success(), "kill -s {name} failed");
    }

    /// Waits until the process answers. On a busy machine, it may get no processor for some time after CONT.
    async fn until_answering(&self) {
        service::fetch::get(&self.address, "/readyz", WAIT_LIMIT).await.expect("the stub answers");
    }
}

/// The number of requests that the replica at `address` holds.
async fn in_flight(dispatcher: &RunningDispatcher, address: &str) -> u64 {
    let status = dispatcher.get("/status").await.json;
    let replicas = status["replicas"].as_array().expect("`replicas` is a list");
    let replica = replicas.iter().find(|replica| replica["address"] == address).expect("the replica is published");
    replica["in_flight"].as_u64().expect("the number is whole")
}

/// Checks that nothing is lost when one of three replicas stops, and that it is ejected within a second after it has
/// stopped with a request. Each request has `budget`, and each replica takes `service_time` for one.
async fn check_stop(budget: Duration, service_time: Duration) {
    let mut stubs = Vec::new();
    for _ in 0..3 {
        stubs.push(StubProcess::start(service_time).await);
    }
    let addresses: Vec<&str> = stubs.iter().map(|stub| &*stub.address).collect();
    let source = format!("static:{}", addresses.join(","));
    let flags = ["--objective=30s", "--deadline=60s"];
    let dispatcher = Arc::new(RunningDispatcher::start(&source, &flags).await);
    dispatcher.until_states(&["ready"; 3]).await;
    // Two of the replicas can do this work, too.
    let per_second = (0.4 * (stubs.len() * CAPACITY) as f64 / service_time.as_secs_f64()).min(MOST_PER_SECOND);
    let sender = dispatcher.clone();
    let load = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / per_second));
        let mut requests = Vec::new();
        for _ in 0..(3.5 * per_second) as usize {
            tick.tick().await;
            let dispatcher = sender.clone();
            let timeout = budget.as_millis().to_string();
            requests.push(tokio::spawn(async move { dispatcher.post(&[("x-request-timeout-ms", &timeout)]).await }));
        }
        let mut failures = Vec::new();
        for request in requests {
            let reply = request.await.expect("the task does not panic");
            if reply.status != 200 {
                failures.push(reply.json);
            }
        }
        failures
    });
    tokio::time::sleep(Duration::from_millis(1000)).await;
    // The replica stops as it gets a request. A request that it has held for long could be answered in time by no other
    // replica. Replicas with a short service time hold a request again at once.
    if service_time >= Duration::from_millis(100) {
        for is_idle in [true, false] {
            while (in_flight(&dispatcher, addresses[0]).await == 0) != is_idle {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
    stubs[0].signal("STOP").await;
    // On a busy machine, the replica may have answered before it stopped. Its answers have arrived after this time. The
    // time counts from the moment at which it owes an answer, since an idle replica that has stopped shows no sign of it.
    tokio::time::sleep(IN_TRANSIT).await;
    let owing = async {
        while in_flight(&dispatcher, addresses[0]).await == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(WAIT_LIMIT, owing).await.expect("the replica gets a request");
    let since = Stopwatch::start();
    let row = format!("budget {budget:?}, service time {service_time:?}");
    dispatcher.until_states(&["ejected", "ready", "ready"]).await;
    let elapsed = since.elapsed() + IN_TRANSIT;
    let failures = load.await.expect("the task does not panic");
    assert!(elapsed <= Duration::from_secs(1), "{row}: ejected after {elapsed:?}");
    assert!(failures.is_empty(), "{row}: {failures:?}");
}

#[test]
fn a_stopped_replica_is_ejected_within_a_second_and_nothing_is_lost() {
    // In each row, another replica can still answer a request that was sent to the stopped one.
    for (budget, service_time) in
        [(300, 10), (300, 50), (900, 100), (900, 420), (1500, 1000), (5000, 10), (5000, 420), (5000, 1000)]
    {
        on_machine_with_pauses_up_to(TOLERATED_PAUSE, async || {
            check_stop(Duration::from_millis(budget), Duration::from_millis(service_time)).await;
        });
    }
}

#[test]
fn a_replica_that_runs_for_a_fifth_of_the_time_is_not_ejected() {
    on_machine_with_pauses_up_to(TOLERATED_PAUSE, async || {
        let stubs =
            [StubProcess::start(Duration::from_millis(20)).await, StubProcess::start(Duration::from_millis(20)).await];
        let source = format!("static:{},{}", stubs[0].address, stubs[1].address);
        let dispatcher = Arc::new(RunningDispatcher::start(&source, &["--objective=30s", "--deadline=60s"]).await);
        dispatcher.until_states(&["ready"; 2]).await;
        let mut requests = Vec::new();
        for _ in 0..6 {
            // A scheduler that gives the replica a part of a core lets it stand still like this.
            for (signal, milliseconds) in [("STOP", 400), ("CONT", 100)] {
                stubs[0].signal(signal).await;
                let since = Instant::now();
                while since.elapsed() < Duration::from_millis(milliseconds) {
                    let dispatcher = dispatcher.clone();
                    requests.push(tokio::spawn(async move { dispatcher.post(&[]).await.status }));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                if signal == "CONT" {
                    stubs[0].until_answering().await;
                }
                assert_eq!(dispatcher.states().await, ["ready"; 2]);
            }
        }
        for request in requests {
            assert_eq!(request.await.expect("the task does not panic"), 200);
        }
        assert_eq!(dispatcher.metric("dispatcher_retries_total{reason=\"stalled\"}").await, 0.0);
    });
}

#[test]
#[ignore = "the other tests start it as a process of its own"]
fn stub_replica() {
    let Ok(settings) = std::env::var(STUB) else { return };
    let (capacity, milliseconds) = settings.split_once(' ').expect("there are two numbers");
    let capacity = capacity.parse().expect("the capacity is a number");
    let service_time = Duration::from_millis(milliseconds.parse().expect("the service time is a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the system has resources for a runtime").block_on(async {
        let stub = StubReplica::with_capacity(capacity, StubBehavior::Delayed(service_time)).await;
        println!("stub at {}", stub.address);
        // The process ends with its parent, which closes this pipe.
        let _closed = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    });
}
