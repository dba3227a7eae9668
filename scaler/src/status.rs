//! `scaler status` and `scaler explain`: asks a running scaler, and says it in words.

use anyhow::{Context, Result, ensure};
use hyper::StatusCode;
use serde_json::Value;
use service::fetch;
use std::fmt::Write;
use std::time::Duration;

/// For an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The running scaler's address
    #[arg(long, env = "ROUNDHOUSE_SCALER", default_value = "127.0.0.1:5053")]
    pub scaler: String,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Whom, and how much.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  scaler explain --last 20\n  scaler explain --all --json | jq '.[] | select(.action == \"up\")'"
)]
pub struct ExplainArgs {
    /// Whom to ask
    #[command(flatten)]
    pub args: Args,
    /// Of this target only
    #[arg(long)]
    pub target: Option<String>,
    /// The latest decisions only
    #[arg(long, default_value_t = 50)]
    pub last: usize,
    /// Also those that changed nothing
    #[arg(long)]
    pub all: bool,
}

/// What `/status` says.
///
/// # Errors
/// When nobody answers.
pub async fn status(args: &Args) -> Result<String> {
    let status = get(&args.scaler, "/status").await?;
    if args.json {
        return Ok(serde_json::to_string_pretty(&status)?);
    }
    let targets = status["targets"].as_array().context("the answer names no targets")?;
    let texts = targets.iter().map(status_of).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join("\n\n"))
}

/// One target's.
fn status_of(status: &Value) -> Result<String, std::fmt::Error> {
    let latest = &status["latest"];
    let mut text = format!("target    {}\n", status["target"].as_str().unwrap_or_default());
    writeln!(
        text,
        "leads     {}",
        if status["leads"] == true { "yes" } else { "no: another one does, or none can hold the lease" }
    )?;
    if latest.is_null() {
        text.push_str("nothing was decided yet");
        return Ok(text);
    }
    let replicas = &latest["replicas"];
    writeln!(
        text,
        "replicas  {} ready, {} starting, {} blocked; {} asked for",
        replicas["ready"], replicas["starting"], replicas["blocked"], latest["desired"]
    )?;
    if let Some(inputs) = latest["inputs"].as_object() {
        writeln!(text, "requests  {} waiting, {} in flight", inputs["queue_length"], inputs["in_flight"])?;
    }
    write!(text, "reason    {}{}", latest["explanation"].as_str().unwrap_or_default(), withheld(latest))?;
    Ok(text)
}

/// What `/decisions` says.
///
/// # Errors
/// When nobody answers.
pub async fn explain(args: &ExplainArgs) -> Result<String> {
    let decisions = get(&args.args.scaler, "/decisions").await?;
    let decisions = decisions.as_array().context("the answer is no list")?;
    let is_of_target = |decision: &Value| args.target.as_deref().is_none_or(|target| decision["target"] == target);
    let wanted = |decision: &&Value| is_of_target(decision) && (args.all || decision["action"] != "hold");
    let has_several = decisions.iter().any(|decision| decision["target"] != decisions[0]["target"]);
    let chosen: Vec<&Value> = decisions.iter().filter(wanted).collect();
    let chosen = &chosen[chosen.len().saturating_sub(args.last)..];
    if args.args.json {
        return Ok(serde_json::to_string_pretty(chosen)?);
    }
    if chosen.is_empty() {
        return Ok(format!("nothing was changed in the last {} decisions; --all shows them", decisions.len()));
    }
    let lines = chosen.iter().map(|decision| {
        let text = |name: &str| decision[name].as_str().unwrap_or_default();
        let target = if has_several { format!("{}  ", text("target")) } else { String::new() };
        format!(
            "{:>9.1} s  {target}{:4} {:>3} → {:<3} {}{}",
            decision["at_seconds"].as_f64().unwrap_or_default(),
            text("action"),
            decision["replicas"]["desired"],
            decision["desired"],
            text("explanation"),
            withheld(decision)
        )
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Why a change was not made, if so.
fn withheld(decision: &Value) -> String {
    let is_change = decision["action"] != "hold";
    let why = decision["withheld"].as_str().filter(|_| is_change);
    why.map(|why| format!(" (not done: {why})")).unwrap_or_default()
}

async fn get(address: &str, path: &str) -> Result<Value> {
    let (status, body) = fetch::get(address, path, TIMEOUT)
        .await
        .with_context(|| format!("ask the scaler at {address}; --scaler names another"))?;
    ensure!(status == StatusCode::OK, "{address} answered {status} to {path}: is it a scaler?");
    serde_json::from_slice(&body).with_context(|| format!("read the answer of {address} to {path}"))
}
