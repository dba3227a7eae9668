//! The commands `scaler status` and `scaler explain`, which ask a running scaler over HTTP for its state and decisions.

use anyhow::{Context, Result, ensure};
use hyper::StatusCode;
use serde_json::Value;
use service::fetch;
use std::time::Duration;

/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The flags of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the running scaler, HOST:PORT
    #[arg(long, env = "ROUNDHOUSE_SCALER", default_value = "127.0.0.1:5053")]
    pub scaler: String,
    /// Print the answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// The flags of `explain`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  scaler explain --last 20\n  scaler explain --all --json | jq '.[] | select(.action == \"up\")'"
)]
pub struct ExplainArgs {
    /// Flags that status and explain share
    #[command(flatten)]
    pub args: Args,
    /// Show only the decisions of this target
    #[arg(long)]
    pub target: Option<String>,
    /// Number of the latest decisions to show
    #[arg(long, default_value_t = 50)]
    pub last: usize,
    /// Show decisions that changed nothing, too
    #[arg(long)]
    pub all: bool,
}

/// The state of all targets, from `/status` of the running scaler.
///
/// # Errors
/// If the scaler does not answer, or its answer is not that of a scaler.
pub async fn status(args: &Args) -> Result<String> {
    let status = get(&args.scaler, "/status").await?;
    if args.json {
        return Ok(serde_json::to_string_pretty(&status)?);
    }
    let targets = status["targets"].as_array().context("the answer to /status has no targets; check --scaler")?;
    Ok(targets.iter().map(target).collect::<Vec<_>>().join("\n\n"))
}

fn target(status: &Value) -> String {
    let leads = if status["leads"] == true { "yes" } else { "no: another one does, or none can hold the lease" };
    let head = format!("target    {}\nleads     {leads}\n", text(status, "target"));
    let latest = &status["latest"];
    if latest.is_null() {
        return head + "there is no decision yet";
    }
    let (replicas, desired) = (&latest["replicas"], &latest["desired"]);
    let [ready, starting, blocked, lost] = ["ready", "starting", "blocked", "lost"].map(|state| &replicas[state]);
    let replicas =
        format!("replicas  {ready} ready, {starting} starting, {blocked} blocked, {lost} lost; {desired} desired\n");
    let requests = latest["inputs"]
        .as_object()
        .map(|seen| format!("requests  {} waiting, {} in flight\n", seen["queue_length"], seen["in_flight"]));
    let reason = format!("reason    {}{}", text(latest, "explanation"), withheld(latest));
    head + &replicas + &requests.unwrap_or_default() + &reason + &levels(latest)
}

/// A line for each level of the law's plan, which says when its replica starts or stops; empty without a plan.
fn levels(latest: &Value) -> String {
    let levels = latest["workings"]["levels"].as_array().into_iter().flatten();
    levels.map(|level| format!("\nlevel     replica {}: {}", level["replicas"], outlook(level))).collect()
}

fn outlook(level: &Value) -> String {
    let figure = |name: &str| level[name].as_f64().unwrap_or_default();
    let (worth, idle, is_on) = (figure("worth"), figure("idle_seconds"), level["is_on"] == true);
    let saves = format!("{} late requests worth {worth:.1} times its cost", if is_on { "saves" } else { "would save" });
    if is_on && idle > 0.0 {
        format!("{saves}; idle for {idle:.0} s, stops after {:.0} s", figure("hold_seconds"))
    } else if !is_on && worth > 1.0 {
        let (starts_at, regret) = (figure("starts_at"), figure("regret"));
        format!("{saves}; starts once its absence has cost {starts_at:.1} replica-seconds ({regret:.1} so far)")
    } else {
        saves
    }
}

/// The latest decisions, from `/decisions` of the running scaler.
///
/// # Errors
/// If the scaler does not answer, or its answer is not that of a scaler.
pub async fn explain(args: &ExplainArgs) -> Result<String> {
    let decisions = get(&args.args.scaler, "/decisions").await?;
    let decisions = decisions.as_array().context("the answer to /decisions is no list; check --scaler")?;
    explanation(decisions, args)
}

/// The chosen ones of these decisions as a text.
fn explanation(decisions: &[Value], args: &ExplainArgs) -> Result<String> {
    let is_of_target = |decision: &&Value| args.target.as_deref().is_none_or(|target| decision["target"] == target);
    let of_target: Vec<&Value> = decisions.iter().filter(is_of_target).collect();
    let is_chosen = |decision: &&Value| args.all || decision["action"] != "hold";
    let chosen: Vec<&Value> = of_target.iter().copied().filter(is_chosen).collect();
    let shown = &chosen[chosen.len().saturating_sub(args.last)..];
    if args.args.json {
        return Ok(serde_json::to_string_pretty(shown)?);
    }
    if chosen.is_empty() {
        return Ok(match (of_target.len(), &args.target) {
            (0, None) => "there is no decision yet".into(),
            (0, Some(target)) => format!("there is no decision for {target}; scaler status shows the targets"),
            // Changes outlast other decisions, so these are the latest decisions.
            (count, _) => format!("none of the last {count} decisions is a change; --all shows them"),
        });
    }
    let has_several = decisions.iter().any(|decision| decision["target"] != decisions[0]["target"]);
    let lines = shown.iter().map(|decision| {
        let target = if has_several { format!("{}  ", text(decision, "target")) } else { String::new() };
        let (at, current) = (decision["at_seconds"].as_f64().unwrap_or_default(), &decision["replicas"]["desired"]);
        let (action, desired) = (text(decision, "action"), &decision["desired"]);
        let (explanation, withheld) = (text(decision, "explanation"), withheld(decision));
        format!("{at:>9.1} s  {target}{action:4} {current:>3} → {desired:<3} {explanation}{withheld}")
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A note that a change was not carried out, with the reason; empty if it was carried out.
fn withheld(decision: &Value) -> String {
    let why = decision["withheld"].as_str().filter(|_| decision["action"] != "hold");
    why.map(|why| format!(" (not done: {why})")).unwrap_or_default()
}

async fn get(address: &str, path: &str) -> Result<Value> {
    let answer = fetch::get(address, path, TIMEOUT).await;
    let (status, body) = answer.with_context(|| format!("ask the scaler at {address}; check --scaler"))?;
    ensure!(status == StatusCode::OK, "{address} answered {path} with {status}; check --scaler");
    serde_json::from_slice(&body).with_context(|| format!("the answer of {address} to {path} is not JSON"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_says_when_the_replica_of_a_level_starts_or_stops() {
        for (is_on, worth, idle, outlook) in [
            (true, 32.3, 0.0, "saves late requests worth 32.3 times its cost"),
            (true, 0.4, 12.0, "saves late requests worth 0.4 times its cost; idle for 12 s, stops after 40 s"),
            (false, 0.2, 90.0, "would save late requests worth 0.2 times its cost"),
            (
                false,
                1.8,
                0.0,
                "would save late requests worth 1.8 times its cost; starts once its absence has cost 2.1 \
                 replica-seconds (0.7 so far)",
            ),
        ] {
            let times = json!({"idle_seconds": idle, "hold_seconds": 40.0, "regret": 0.7, "starts_at": 2.1});
            let mut level = json!({"replicas": 3, "is_on": is_on, "worth": worth});
            level.as_object_mut().expect("an object").extend(times.as_object().expect("an object").clone());
            let shown = target(&json!({"latest": {"workings": {"levels": [level]}}}));
            assert_eq!(shown.lines().last(), Some(&*format!("level     replica 3: {outlook}")));
        }
        assert_eq!(levels(&json!({"reason": "waiting"})), "");
    }

    #[test]
    fn explain_counts_the_decisions_of_its_target() {
        let decision = |target: &str, action: &str| json!({"target": target, "action": action});
        let decisions = [decision("a", "hold"), decision("b", "hold"), decision("b", "up"), decision("a", "hold")];
        for (decisions, target, text) in [
            (&decisions[..], Some("a"), "none of the last 2 decisions is a change"),
            (&decisions[..2], None, "none of the last 2 decisions is a change"),
            (&decisions[..], Some("c"), "there is no decision for c"),
            (&decisions[..0], None, "there is no decision yet"),
            (&decisions[..], None, "b  up"),
        ] {
            let args = Args { scaler: String::new(), json: false };
            let args = ExplainArgs { args, target: target.map(Into::into), last: 50, all: false };
            let explained = explanation(decisions, &args).expect("a text");
            assert!(explained.contains(text), "{target:?}: {explained}");
        }
    }
}
