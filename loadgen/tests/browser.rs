//! Opens the HTML pages in a real browser without a network. All plots must be drawn, the console must have no message,
//! and the pages must be small.

use loadgen::compare::{RunComparison, RunGroup};
use loadgen::measure::Measurement;
use loadgen::payload::BodyFormat;
use loadgen::recording::{Record, RunRecording};
use loadgen::report::{RunReport, RunSetup, html};
use loadgen::request_id::RequestIds;
use loadgen::sample::{RequestOutcome, Sample};
use loadgen::server_metrics::ServerMetrics;
use service::wire::Timing;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use workload::Workload;
use workload::arrivals::{self, ArrivalProcess};

/// Length of each run in seconds, equal to that of loadgen/workloads/course.txt.
const SECONDS: u64 = 630;

const MAX_PAGE_BYTES: usize = 2_000_000;

/// The report of a run whose latency rises and falls, and of which some requests fail. All latencies are multiplied by
/// `slowness`.
fn report(slowness: u64) -> RunReport {
    let load: Vec<f64> = (0..SECONDS).map(|second| 12.0 + 10.0 * (second as f64 / 60.0).sin()).collect();
    let schedule = arrivals::schedule(&Workload { per_second: load }, ArrivalProcess::Poisson, 1);
    let sample = |(index, scheduled): (usize, Duration)| {
        let wave = 40.0 + 400.0 * (scheduled.as_secs_f64() / 90.0).sin().powi(8) + (index % 37) as f64;
        let failed = index % 211 == 0;
        let outcome = if failed {
            RequestOutcome::Failed { code: "</script><b>".into() }
        } else {
            RequestOutcome::Answered { right: Some(true) }
        };
        Sample {
            index,
            image: 0,
            scheduled,
            send_delay: Duration::ZERO,
            latency: Duration::from_secs_f64(wave * slowness as f64 / 1e3),
            sent_bytes: 38_000,
            received_bytes: 300,
            status: Some(200),
            replica: Some("<replica>".into()),
            timing: Some(Timing::default()),
            outcome,
        }
    };
    let metrics = |second: u64| ServerMetrics {
        at_seconds: second as f64 + 0.3,
        queue_length: Some((second % 90) as f64 / 9.0),
        replicas: Some(1.0 + (second / 100 % 3) as f64),
        desired_replicas: Some(1.0 + ((second + 3) / 100 % 3) as f64),
    };
    let length = Duration::from_secs(SECONDS);
    let server_metrics = (0..SECONDS).map(metrics).collect();
    let measurement = Measurement { server_metrics, length, unfinished: 0, is_complete: true };
    let mut recording = RunRecording::new(Duration::from_millis(500), length, None, None, length);
    schedule.into_iter().enumerate().for_each(|request| recording.record(&sample(request)));
    let slowest = recording.slowest.requests(&RequestIds::numbered(1), |_| "<image>");
    let setup = RunSetup {
        name: None,
        version: "0".into(),
        started_at: "2026-01-01T00:00:00Z".into(),
        url: "http://127.0.0.1:5052/predict".into(),
        load: "a wave".into(),
        arrivals: Some(ArrivalProcess::Poisson),
        seed: 1,
        images: 120,
        skipped_images: 0,
        label_problem: None,
        connection_limit: None,
        body_format: BodyFormat::Raw,
        objective_ms: 500.0,
        warmup_seconds: 0.0,
        length_seconds: SECONDS as f64,
        machine: None,
    };
    RunReport::new(setup, measurement, recording, slowest, &["p95<100ms".parse().expect("a condition")])
}

/// The path of a Chromium browser on this machine; `None` if there is none.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|file| file.is_file())
}

/// Opens `page` in the browser. Returns the resulting HTML and the browser's messages. With `screenshot`, an image of
/// the page is written to that file instead, and the HTML is empty.
fn open(browser: &Path, page: &Path, screenshot: Option<&Path>) -> (String, String) {
    let profile = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(browser);
    command
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1100,3000"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000", "--disable-dev-shm-usage"])
        // No host can be resolved, so a page that fetches anything fails.
        .arg("--host-resolver-rules=MAP * ~NOTFOUND")
        .arg(format!("--user-data-dir={}", profile.path().display()));
    match screenshot {
        Some(file) => command.arg(format!("--screenshot={}", file.display())),
        None => command.arg("--dump-dom"),
    };
    let output = command.arg(format!("file://{}", page.display())).output().expect("the browser starts");
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Checks that `page` has `plots` plots and no reference to other files, and that its screenshot contains `colours`.
fn check(browser: &Path, name: &str, page: &str, plots: usize, colours: &[[u8; 3]]) {
    println!("{name}: {} bytes", page.len());
    assert!(page.len() <= MAX_PAGE_BYTES, "{name} has {} bytes", page.len());
    for reference in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(reference), "{name} refers to something by {reference}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, screenshot) = (folder.path().join("page.html"), folder.path().join("page.png"));
    std::fs::write(&file, page).expect("written");
    let (dom, messages) = open(browser, &file, None);
    assert!(
        dom.contains(&format!("data-plots=\"{plots}\"")),
        "{name} does not have {plots} plots; messages of the browser: {messages}"
    );
    assert!(!messages.contains("CONSOLE"), "{name}: {messages}");
    let (_, messages) = open(browser, &file, Some(&screenshot));
    let pixels = read_png(&screenshot).unwrap_or_else(|error| panic!("{error}: {messages}"));
    for colour in colours {
        let found = pixels.iter().filter(|pixel| *pixel == colour).count();
        assert!(found > 150, "{name}: {found} pixels of {colour:?}");
    }
}

/// The pixels of a PNG file, row by row, without their alpha.
fn read_png(path: &Path) -> Result<Vec<[u8; 3]>, Box<dyn std::error::Error>> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
    let mut bytes = vec![0; reader.output_buffer_size().ok_or("the image is too large")?];
    let info = reader.next_frame(&mut bytes)?;
    let samples = info.color_type.samples();
    Ok(bytes[..info.buffer_size()].chunks_exact(samples).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect())
}

#[test]
fn pages_draw_their_plots_without_a_network() {
    let Some(browser) = chromium() else {
        eprintln!("skipped: no Chromium is installed (apt-get install chromium)");
        return;
    };
    let (blue, red, green, yellow) = ([0x3b, 0x6f, 0xd4], [0xc8, 0x37, 0x2d], [0x2a, 0x9d, 0x5c], [0xd9, 0x8e, 0x04]);
    let violet = [0x7a, 0x4f, 0xc0];
    // The five plots are load, latency, replicas, queue and percentiles.
    check(&browser, "a report", &html::page(&report(1)), 5, &[blue, red, green, yellow, violet]);
    let group = |slowness| RunGroup { name: format!("run {slowness}"), runs: vec![report(slowness)] };
    let comparison = html::comparison(&RunComparison { goal: 99.0, groups: (1..=8).map(group).collect() });
    check(&browser, "a comparison", &comparison, 4, &[blue, red, green, yellow, violet]);
}
