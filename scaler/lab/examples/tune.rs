#![allow(warnings)]
use lab::laws::LawChoice;
use lab::simulate::plant::settings::PlantSettings;
use lab::simulate::service_time::ServiceTimeDistribution;
use lab::simulate::trial::{Trial, TrialOutcome};
use lab::simulate::workload_set::WorkloadSet;
use lab::simulate::oracle;
use law::limits::{Guard, Limiter, Limits};
use law::observation::Observation;
use law::table::{Objective, Settings};
use law::histogram::Histogram;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use workload::Workload;
use workload::arrivals::ArrivalProcess;

static PARAMS: std::sync::RwLock<BTreeMap<String, f64>> = std::sync::RwLock::new(BTreeMap::new());
thread_local!(static LOCAL: std::cell::RefCell<(u64, BTreeMap<String, f64>)> = const { std::cell::RefCell::new((0, BTreeMap::new())) });
static GEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
fn par(name: &str, default: f64) -> f64 {
    LOCAL.with_borrow_mut(|l| {
        let g = GEN.load(std::sync::atomic::Ordering::Relaxed);
        if l.0 != g { *l = (g, PARAMS.read().unwrap().clone()); }
        l.1.get(name).copied().unwrap_or(default)
    })
}
fn set_params(p: BTreeMap<String, f64>) { *PARAMS.write().unwrap() = p; GEN.fetch_add(1, std::sync::atomic::Ordering::SeqCst); }

fn batch(setup: &Setup, workloads: &[(String, Workload)], seeds: u64) -> (f64, f64, f64, f64) {
    // mean attainment, mean ratio, most late changes, mean changes
    let jobs: Vec<(usize, u64)> = (0..workloads.len()).flat_map(|w| (1..=seeds).map(move |s| (w, s))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let sum = std::sync::Mutex::new((0.0, 0.0, 0.0f64, 0.0));
    static CACHE: std::sync::Mutex<BTreeMap<String, f64>> = std::sync::Mutex::new(BTreeMap::new());
    if CACHE.lock().unwrap().is_empty() { *CACHE.lock().unwrap() = std::fs::read_to_string("/tmp/tune-oracle.txt").unwrap_or_default().lines().filter_map(|l| { let (k, v) = l.rsplit_once('\t')?; Some((k.to_string(), v.parse().ok()?)) }).collect(); }
    std::thread::scope(|scope| { for _ in 0..2 { scope.spawn(|| loop {
        let j = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if j >= jobs.len() { break }
        let (w, seed) = jobs[j];
        let (name, workload) = &workloads[w];
        let workload = workload.clone().scaled(setup.scale);
        let trial = make_trial(setup, &workload, seed, "windows");
        let key = format!("{name} {seed} {setup:?}");
        let steady = name.starts_with("steady");
        let cached = CACHE.lock().unwrap().get(&key).copied();
        let oracle = if steady { 1.0 } else { cached.unwrap_or_else(|| {
            let c = oracle::run(&trial, setup.goal).replica_seconds();
            use std::io::Write;
            writeln!(std::fs::OpenOptions::new().append(true).create(true).open("/tmp/tune-oracle.txt").unwrap(), "{key}\t{c}").unwrap();
            CACHE.lock().unwrap().insert(key, c);
            c
        }) };
        let o = run_levels(&trial);
        let late = if steady { o.timeline.iter().filter(|s| s.at.as_secs_f64() > 60.0).map(|s| s.desired).collect::<Vec<_>>().windows(2).filter(|p| p[0] != p[1]).count() } else { 0 };
        let mut s = sum.lock().unwrap();
        s.0 += o.attainment(); s.1 += o.replica_seconds() / oracle; s.2 = s.2.max(late as f64); s.3 += o.changes as f64;
    }); } });
    let s = sum.into_inner().unwrap(); let n = jobs.len() as f64;
    (100.0 * s.0 / n, s.1 / n, s.2, s.3 / n)
}

fn search(setup: &Setup, fixed: BTreeMap<String, f64>, minutes: f64) {
    let course = vec![("course".to_string(), std::fs::read_to_string("loadgen/workloads/course.txt").unwrap().parse::<Workload>().unwrap())];
    let training: Vec<(String, Workload)> = WorkloadSet::Training.shapes().map(|s| (s.to_string(), s.workload())).collect();
    let steady: Vec<(String, Workload)> = [5,7,9,10,12,14,16,18,20,24,28,30,33,36,40,44,48,52,60,70].iter().map(|r| (format!("steady {r}"), Workload::constant(*r as f64, Duration::from_secs(1800)))).collect();
    let (s12, s40, s1) = (Setup { startup: 12.0, ..setup.clone() }, Setup { startup: 40.0, ..setup.clone() }, Setup { startup: 1.0, ..setup.clone() });
    let score = |floor: f64| {
        let t = batch(setup, &training, 2);
        let c = batch(setup, &course, 5);
        let a = batch(&s12, &training, 1);
        let b = batch(&s40, &training, 1);
        let mut s = t.0 - 2.3 * (t.1 - 1.45) + 0.5 * c.0 - 1.0 * (c.1 - 1.30).max(0.0) * 5.0 + 0.4 * (a.0 - 2.3 * a.1) + 0.25 * (b.0 - 2.5 * b.1) - 0.004 * t.3;
        let f = if s > floor { batch(setup, &steady, 1) } else { (0.0, 0.0, 99.0, 0.0) };
        s -= 0.03 * (f.2 - 2.0).max(0.0);
        (s, format!("train {:.3}/{:.3} ch {:.1} course {:.3}/{:.3} steady {:.0} s12 {:.3}/{:.3} s40 {:.3}/{:.3}", t.0, t.1, t.3, c.0, c.1, f.2, a.0, a.1, b.0, b.1))
    };
    let ranges: &[(&str, f64, f64, f64)] = &[("hmin", 0.001, 0.0002, 0.02), ("novelty", 0.2, 0.02, 0.8), ("sigma", 1.0, 0.4, 3.0), ("up", 1.0, 1.0, 4.0), ("start", 0.5, 0.02, 1.0), ("q", 0.99, 0.98, 0.996), ("f0", 0.7, 0.2, 1.0), ("fup", 2.0, 1.2, 4.0), ("fdown", 0.5, 0.25, 0.9), ("fmin", 0.1, 0.03, 0.4), ("horizon", 3.0, 0.5, 12.0), ("kappa", 0.02, 0.01, 1.0), ("margin", 0.05, 0.01, 0.12), ("shift", 1.0, 0.1, 3.0), ("tau", 600.0, 200.0, 1500.0), ("forget", 0.35, 0.1, 0.8), ("prior", 0.05, 0.01, 0.6), ("growth", 4.0, 1.5, 8.0)];
    let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(par("rng", 1.0) as u64);
    use rand::Rng;
    let mut best: BTreeMap<String, f64> = ranges.iter().map(|r| (r.0.to_string(), r.1)).collect();
    best.extend(fixed);
    set_params(best.clone());
    let (mut top, text) = score(-1e9);
    println!("start {top:.4} {text}");
    let started = std::time::Instant::now();
    let mut scale = 0.5f64; let mut evals = 0;
    while started.elapsed().as_secs_f64() < 60.0 * minutes {
        let mut p = best.clone();
        let count = rng.random_range(1..=3);
        for _ in 0..count {
            let r = &ranges[rng.random_range(0..ranges.len())];
            let z: f64 = rng.random::<f64>() * 2.0 - 1.0;
            let one = if r.0 == "q" { 1.0 - (1.0 - p[r.0]) * (z * scale).exp() } else { p[r.0] * (z * 2.0 * scale).exp() };
            p.insert(r.0.to_string(), one.clamp(r.2, r.3));
        }
        set_params(p.clone());
        let (s, text) = score(top);
        evals += 1; if s > top { top = s; best = p; println!("{:.0}s {evals} {top:.4} {text}  {}", started.elapsed().as_secs_f64(), best.iter().map(|(k, v)| format!("{k}={v:.4}")).collect::<Vec<_>>().join(" ")); scale = (scale * 1.2).min(0.8); } else { scale = (scale * 0.97).max(0.12); }
    }
}

include!("levels.inc");

#[derive(Clone, Debug)]
struct Setup { startup: f64, service: f64, max: usize, scale: f64, slots: usize, workers: usize, batch: usize, growth: f64, goal: f64, objective: f64 }

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut params = BTreeMap::new();
    let mut setup = Setup { startup: 3.0, service: 0.055, max: 6, scale: 1.0, slots: 1, workers: 1, batch: 1, growth: 1.0, goal: 0.999, objective: 0.5 };
    let (mut set, mut seeds, mut law, mut verbose, mut only) = ("training".to_string(), 2u64, "levels".to_string(), false, String::new());
    for a in &args {
        let (k, v) = a.split_once('=').unwrap_or((a, "1"));
        match k {
            "set" => set = v.into(), "seeds" => seeds = v.parse().unwrap(), "law" => law = v.into(), "v" => verbose = true, "only" => only = v.into(),
            "startup" => setup.startup = v.parse().unwrap(), "service" => setup.service = v.parse().unwrap(), "max" => setup.max = v.parse().unwrap(),
            "scale" => setup.scale = v.parse().unwrap(), "slots" => setup.slots = v.parse().unwrap(), "batch" => setup.batch = v.parse().unwrap(), "growth" => setup.growth = v.parse().unwrap(),
            "goal" => setup.goal = v.parse().unwrap(), "objective" => setup.objective = v.parse().unwrap(),
            _ => { params.insert(k.to_string(), v.parse().unwrap()); }
        }
    }
    let minutes = params.remove("search");
    set_params(params.clone());
    if let Some(m) = minutes { return search(&setup, params, m); }
    let mut workloads: Vec<(String, Workload)> = Vec::new();
    let course = || ("course".to_string(), std::fs::read_to_string("loadgen/workloads/course.txt").unwrap().parse::<Workload>().unwrap());
    match set.as_str() {
        "course" => workloads.push(course()),
        "training" => workloads.extend(WorkloadSet::Training.shapes().map(|s| (s.to_string(), s.workload()))),
        "heldout" => workloads.extend(WorkloadSet::HeldOut.shapes().map(|s| (s.to_string(), s.workload()))),
        "bench" => workloads.extend([7,10,12,14,20,24,28,30,40,48,60,70].iter().map(|r| (format!("steady {r}"), Workload::constant(*r as f64, Duration::from_secs(1800))))),
        "steady" => workloads.extend([5,7,9,10,12,14,16,18,20,24,28,30,33,36,40,44,48,52,60,70].iter().map(|r| (format!("steady {r}"), Workload::constant(*r as f64, Duration::from_secs(1800))))),
        "steadyhi" => workloads.extend([100,150,200,250,300,400,500,600,700].iter().map(|r| (format!("steady {r}"), Workload::constant(*r as f64, Duration::from_secs(1800))))),
        "fine" => workloads.extend((2..=40).map(|r| (format!("steady {}", r as f64 * 2.0), Workload::constant(r as f64 * 2.0, Duration::from_secs(1800))))),
        other => { let s: workload::shape::Shape = other.parse().unwrap(); workloads.push((s.to_string(), s.workload())); }
    }
    workloads.retain(|w| w.0.contains(&only));
    let jobs: Vec<(usize, u64)> = (0..workloads.len()).flat_map(|w| (1..=seeds).map(move |s| (w, s))).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let results = std::sync::Mutex::new(vec![None; jobs.len()]);
    let steady = set.starts_with("steady") || set == "fine" || set == "bench";
    let cache_path = "/tmp/tune-oracle.txt";
    let cache: BTreeMap<String, f64> = std::fs::read_to_string(cache_path).unwrap_or_default().lines().filter_map(|l| { let (k, v) = l.rsplit_once('\t')?; Some((k.to_string(), v.parse().ok()?)) }).collect();
    let threads = par("threads", 2.0) as usize;
    std::thread::scope(|scope| { for _ in 0..threads { scope.spawn(|| loop {
        let j = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if j >= jobs.len() { break }
        let (w, seed) = jobs[j];
        let (name, workload) = &workloads[w];
        let workload = workload.clone().scaled(setup.scale);
        let trial = make_trial(&setup, &workload, seed, if law == "levels" { "windows" } else { &law });
        let key = format!("{name} {seed} {setup:?}");
        let oracle = if steady || setup.goal == 0.0 { f64::NAN } else { cache.get(&key).copied().unwrap_or_else(|| {
            let c = oracle::run(&trial, setup.goal).replica_seconds();
            use std::io::Write;
            let mut f = std::fs::OpenOptions::new().append(true).create(true).open(cache_path).unwrap();
            writeln!(f, "{key}\t{c}").unwrap();
            c
        }) };
        let outcome = if law == "levels" { run_levels(&trial) } else { trial.run() };
        if par("losses", 0.0) > 0.0 {
            let mut before = 0u64;
            for s in outcome.timeline.iter() {
                let r = s.requests.unwrap();
                let lost = s.offered - r.in_time - r.pending;
                if lost > before { println!("{:7.1} desired {} ready {} rate {:.0} lost {}", s.at.as_secs_f64(), s.desired, s.ready, workload.per_second[(s.at.as_secs_f64() as usize).min(workload.per_second.len()-1)], lost - before); before = lost; }
            }
        }
        let late_changes = outcome.timeline.iter().filter(|s| s.at.as_secs_f64() > 60.0).map(|s| s.desired).collect::<Vec<_>>().windows(2).filter(|p| p[0] != p[1]).count();
        results.lock().unwrap()[j] = Some((outcome.attainment(), outcome.replica_seconds(), oracle, outcome.changes, late_changes, workload.total()));
    }); } });
    let results = results.into_inner().unwrap();
    let (mut att, mut ratio, mut changes, mut n, mut worst_change, mut lates) = (0.0, 0.0, 0.0, 0.0, 0, 0.0);
    let mut gamma = (0.0, 0.0, 0.0);
    for (w, (name, wl)) in workloads.iter().enumerate() {
        let mine: Vec<_> = jobs.iter().zip(&results).filter(|(j, _)| j.0 == w).map(|(_, r)| r.unwrap()).collect();
        let m = mine.len() as f64;
        let a = mine.iter().map(|r| r.0).sum::<f64>() / m;
        let worst = mine.iter().map(|r| r.0).fold(1.0, f64::min);
        let c = mine.iter().map(|r| r.1).sum::<f64>() / m;
        let q = mine.iter().map(|r| r.1 / r.2).sum::<f64>() / m;
        let ch = mine.iter().map(|r| r.3 as f64).sum::<f64>() / m;
        let wc = mine.iter().map(|r| r.4).max().unwrap();
        worst_change = worst_change.max(wc);
        if verbose { println!("{name:50} {:6.2} % (worst {:6.2}) cost {c:7.0} x{q:.2} changes {ch:6.1} late-changes {wc}", 100.0 * a, 100.0 * worst); }
        if name.starts_with("gamma") { gamma.0 += a; gamma.1 += q; gamma.2 += 1.0; if set == "heldout" { continue } }
        att += a; ratio += q; changes += ch; n += 1.0; 
        let _ = wl;
    }
    println!("{law:12} {set:9} attainment {:7.3} %  ratio {:.3}  changes {:.1}  most late changes {worst_change}   gamma {:.2} % x{:.2}   {}", 100.0 * att / n, ratio / n, changes / n, 100.0 * gamma.0 / gamma.2, gamma.1 / gamma.2, args.join(" "));
}

fn make_trial<'a>(setup: &Setup, workload: &'a Workload, seed: u64, law: &str) -> Trial<'a> {
    let objective = Objective { latency: Duration::from_secs_f64(setup.objective), quantile: par("q", 0.99) };
    let is_slo = law == "slo" || law == "windows";
    let limits = if is_slo { Limits { min: 1, max: setup.max, down_window: Duration::ZERO, outage: Duration::from_secs(10), settle: scaler::config::scaling::SETTLE, up_rate: usize::MAX, down_rate: usize::MAX, guard: Guard::On } } else { Limits::bounds(1, setup.max) };
    let mut limits = limits;
    if par("settle", -1.0) >= 0.0 { limits.settle = Duration::from_secs_f64(par("settle", 0.0)); }
    Trial {
        law: law.parse::<LawChoice>().unwrap(),
        law_settings: Settings { objective, interval: Duration::from_millis(500), min: 1, max: setup.max },
        limits,
        plant: PlantSettings {
            order: admission::Order::LateLast, objective: objective.latency, deadline: Duration::from_secs(5), max_queue_length: 1000,
            slots: setup.slots, workers: setup.workers, max_batch: setup.batch, batch_growth: setup.growth,
            service_times: ServiceTimeDistribution::new(Duration::from_secs_f64(setup.service), 0.2),
            startup: Duration::from_secs_f64(setup.startup), max_placed: 100_000, cores: f64::INFINITY,
        },
        workload, process: ArrivalProcess::Poisson, staleness: Duration::ZERO, seed,
    }
}

fn run_levels(trial: &Trial) -> TrialOutcome {
    let mut law = Levels::new(trial.law_settings.max, trial.law_settings.objective.latency.as_secs_f64(), trial.law_settings.objective.quantile, 0.5);
    let mut limiter = Limiter::new(trial.limits);
    let trace = par("trace", 0.0) > 0.0;
    trial.run_with(Duration::from_millis(500), trial.limits.min, |plant| {
        let seen = plant.observe();
        let rec = law.decide(&seen);
        let d = limiter.apply(&seen, Some(rec)).0;
        if trace { println!("{:7.1} n {} ready {} q {:4} mean {:6.2} -> {} ({})  {}", seen.at.as_secs_f64(), seen.replicas.desired, seen.replicas.ready, seen.queue_length, law.mean / law.s, rec, d, law.note); }
        d
    })
}
