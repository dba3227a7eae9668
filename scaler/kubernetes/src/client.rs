//! The client of the API server.

pub use kube::Client;

use kube::Config;
use std::time::Duration;

/// The longest time for a connection to the API server. A request that waits for longer would hold up all others.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest silence of an answer. It is longer than a watch without events, whose end the API server announces after
/// [`crate::mirror::WATCH_SECONDS`]. A connection that has died silently is noticed then.
const READ_TIMEOUT: Duration = Duration::from_secs(75);

/// A client for the cluster of the service account or of the kubeconfig.
///
/// # Errors
/// If there is neither, or it is invalid.
pub async fn connect() -> kube::Result<Client> {
    client(Config::infer().await.map_err(kube::Error::InferConfig)?)
}

/// A client for the cluster of `config`. It reports each failure at once, and the caller decides about the next attempt.
///
/// kube's own retries of answers like 503 pause for longer and longer times, up to 1000 s, and no caller sees them: after
/// an outage of the API server, a program would be without news for half a minute.
///
/// # Errors
/// If the configuration is invalid.
pub fn client(mut config: Config) -> kube::Result<Client> {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    config.default_retry = false;
    Client::try_from(config)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::ListParams;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn an_api_server_that_starts_up_is_reported_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("the system has a free port");
        let address = listener.local_addr().expect("the listener is bound");
        let served = tokio::spawn(async move {
            loop {
                let (mut stream, _peer) = listener.accept().await.expect("the listener is open");
                let _read = stream.read(&mut [0; 4096]).await;
                let answer = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _written = stream.write_all(answer.as_bytes()).await;
            }
        });
        let config = Config::new(format!("http://{address}").parse().expect("the address is valid"));
        let pods = Api::<Pod>::namespaced(client(config).expect("the configuration is valid"), "shop");
        // With kube's retries, the answer takes 40 s.
        let answer = tokio::time::timeout(Duration::from_secs(5), pods.list(&ListParams::default())).await;
        answer.expect("there is an answer").expect_err("the API server is not ready");
        served.abort();
    }
}
