//! One scaler that scales several targets from a configuration file.

use crate::fixture::{Fixture, Scaler, TIMEOUT, wait_for};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

#[tokio::test]
async fn each_section_of_a_configuration_file_has_replicas_of_its_own() {
    let (small, large) = (Fixture::new().await, Fixture::new().await);
    let section = |name: &str, fixture: &Fixture, min: usize| {
        format!(
            "[{name}]\ndispatcher = \"{}\"\nlist = \"{}\"\nreplica = \"{}\"\nmin = {min}\ncpu-share = 0.5\n\
             drain-delay = \"0s\"\n",
            fixture.stub.address,
            fixture.list().display(),
            fixture.stub.program(fixture.folder.path(), "exec 3<&0; cat <&3 > /dev/null").display(),
        )
    };
    let file = small.folder.path().join("scaler.toml");
    fs::write(&file, section("small", &small, 1) + &section("large", &large, 3)).expect("the folder is writable");
    let scaler = Scaler::start_with_flags(&small.log_path(), &[&format!("--config={}", file.display())]).await;
    for (fixture, count) in [(&small, 1), (&large, 3)] {
        wait_for(&format!("{count} replicas"), || (fixture.processes().len() == count).then_some(())).await;
        let list = || fs::read_to_string(fixture.list()).ok().filter(|list| list.contains(&fixture.stub.address));
        wait_for("the replicas in the list", list).await;
    }
    let expected = ["scaler_desired_replicas{target=\"small\"} 1", "scaler_desired_replicas{target=\"large\"} 3"];
    let until = Instant::now() + TIMEOUT;
    loop {
        let metrics = scaler.get("/metrics").await;
        if expected.iter().all(|sample| metrics.contains(sample)) {
            break;
        }
        assert!(Instant::now() < until, "timed out waiting for {expected:?} in:\n{metrics}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status: Value = serde_json::from_str(&scaler.get("/status").await).expect("the status is JSON");
    let targets: Vec<&Value> =
        status["targets"].as_array().expect("targets is a list").iter().map(|target| &target["target"]).collect();
    assert_eq!(targets, ["large", "small"]);
    assert!(!small.log_text().contains("runs without its limits"), "{}", small.log_text());
}
