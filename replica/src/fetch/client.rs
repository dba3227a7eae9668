//! The HTTP client: proxies, certificates, time limits, redirects, and the header that authorises requests.

use anyhow::{Context, Result, anyhow, ensure};
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderValue, Response, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy, ProxyProtocol};

/// Longest time for the look-up of a name, and for opening a connection with its TLS handshake.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most redirects of one download.
pub(super) const MAX_REDIRECTS: u32 = 10;

/// The variable with the value of the header `Authorization`.
const AUTHORIZATION: &str = "ROUNDHOUSE_FETCH_AUTHORIZATION";

/// Reads an environment variable.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Downloads files.
pub(super) struct Client {
    agent: Agent,
    authorization: Option<HeaderValue>,
    proxies: Proxies,
}

/// The proxies for URLs with `http://` and with `https://`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
}

impl Client {
    /// A client that gives up when no byte arrives for `stall_timeout`. `needs_tls` is whether a URL begins with
    /// `https://`.
    ///
    /// # Errors
    /// If a variable is malformed, or the certificates that HTTPS needs cannot be read. No message has a secret.
    pub(super) fn new(variable: Variable<'_>, stall_timeout: Duration, needs_tls: bool) -> Result<Self> {
        let authorization = variable(AUTHORIZATION).map(|value| value.trim().to_owned());
        let authorization = authorization.filter(|value| !value.is_empty()).map(|value| {
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                anyhow!(
                    "{AUTHORIZATION} has a character that a header cannot have; give one line, such as 'Bearer TOKEN'"
                )
            })?;
            value.set_sensitive(true);
            Ok::<_, anyhow::Error>(value)
        });
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(authorities(needs_tls)?)))
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(MAX_REDIRECTS)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            // The hash is that of the bytes as they are stored.
            .accept_encoding("identity")
            .user_agent(concat!("roundhouse-replica/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(stall_timeout))
            .timeout_per_write(Some(stall_timeout))
            .build();
        Ok(Self {
            agent: config.into(),
            authorization: authorization.transpose()?,
            proxies: Proxies::from_environment(variable)?,
        })
    }

    /// Sends `GET uri`, and follows redirects. The body must have arrived within `time_left`.
    ///
    /// # Errors
    /// If there is no answer. An answer with any status is none.
    pub(super) fn get(&self, uri: &Uri, time_left: Duration) -> Result<Response<Body>, ureq::Error> {
        let is_https = uri.scheme_str() == Some("https");
        let proxy = if is_https { &self.proxies.https } else { &self.proxies.http };
        let mut request = self.agent.get(uri);
        if let Some(value) = &self.authorization {
            if !is_https {
                let host = uri.host().unwrap_or_default();
                tracing::warn!(
                    "{host} gets the value of {AUTHORIZATION} without encryption; give its URL with https://"
                );
            }
            request = request.header(header::AUTHORIZATION, value);
        }
        request.config().proxy(proxy.clone()).timeout_global(Some(time_left)).build().call()
    }

    /// Whether requests have the header `Authorization`.
    pub(super) fn has_secret(&self) -> bool {
        self.authorization.is_some()
    }

    /// A function that ends all requests.
    pub(super) fn end(&self) -> impl FnOnce() + use<> {
        let agent = self.agent.clone();
        move || agent.shutdown()
    }
}

impl Proxies {
    fn from_environment(variable: Variable<'_>) -> Result<Self> {
        let first = |names: [&'static str; 4]| {
            names.into_iter().find_map(|name| Some((name, variable(name).filter(|value| !value.trim().is_empty())?)))
        };
        let proxy = |names| first(names).map(|(name, value)| proxy(name, value.trim(), variable)).transpose();
        Ok(Self {
            http: proxy(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?,
            https: proxy(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
        })
    }
}

/// The proxy in the variable `name`. The hosts in NO_PROXY and their subdomains are reached without it, as with curl.
fn proxy(name: &str, value: &str, variable: Variable<'_>) -> Result<Proxy> {
    // The value may have a password.
    let advice = || format!("{name} is no URL of an HTTP proxy; give http://HOST:PORT");
    let given = Proxy::new(value).ok().with_context(advice)?;
    ensure!(matches!(given.protocol(), ProxyProtocol::Http | ProxyProtocol::Https), advice());
    let mut proxy = Proxy::builder(given.protocol()).host(given.host()).port(given.port());
    if let Some(username) = given.username() {
        proxy = proxy.username(username);
    }
    if let Some(password) = given.password() {
        proxy = proxy.password(password);
    }
    let without = variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default();
    for host in without.split(',').map(str::trim).filter(|host| !host.is_empty()) {
        proxy = proxy.no_proxy(host);
        if !host.starts_with(['.', '*']) {
            proxy = proxy.no_proxy(&format!(".{host}"));
        }
    }
    proxy.build().ok().with_context(advice)
}

/// The certificates of the authorities that this system trusts: those of SSL_CERT_FILE or SSL_CERT_DIR, or else those of
/// the system. None if they cannot be read and HTTPS is not needed.
fn authorities(needs_tls: bool) -> Result<Vec<Certificate<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
    ensure!(
        !found.certs.is_empty() || !needs_tls,
        "there are no certificates to check servers with: {}; name a PEM file with SSL_CERT_FILE",
        if errors.is_empty() { "the system has none".to_owned() } else { errors.join(", ") }
    );
    Ok(found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, String> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Proxies::from_environment(&variable).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        for (variables, http, https) in [
            (&[][..], None, None),
            (&[("HTTPS_PROXY", "http://a:1")], None, Some("a")),
            (&[("HTTP_PROXY", "b:1"), ("https_proxy", "http://user:pw@c:2")], Some("b"), Some("c")),
            (&[("ALL_PROXY", "http://d"), ("HTTP_PROXY", " ")], Some("d"), Some("d")),
        ] {
            let found = proxies(variables).expect("valid");
            let host = |proxy: &Option<Proxy>| proxy.as_ref().map(|proxy| proxy.host().to_owned());
            assert_eq!((host(&found.http).as_deref(), host(&found.https).as_deref()), (http, https), "{variables:?}");
        }
        let https = proxies(&[("https_proxy", "http://user:p%40w@c:2")]).expect("valid").https.expect("a proxy");
        assert_eq!((https.username(), https.password(), https.port()), (Some("user"), Some("p@w"), 2));
    }

    #[test]
    fn hosts_without_a_proxy_are_reached_with_their_subdomains() {
        let variables = [("ALL_PROXY", "http://a:1"), ("NO_PROXY", "example.com, .svc,10.0.0.1")];
        let proxy = proxies(&variables).expect("valid").http.expect("a proxy");
        for (host, expected) in [
            ("example.com", true),
            ("eu.example.com", true),
            ("notexample.com", false),
            ("models.default.svc", true),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
        ] {
            let uri: Uri = format!("https://{host}/a").parse().expect("a URL");
            assert_eq!(proxy.is_no_proxy(&uri), expected, "{host}");
        }
    }

    #[test]
    fn malformed_variables_are_named_and_not_shown() {
        for value in ["socks5://secret", "http://user:secret@", "http://us er:secret@x", "secret://x"] {
            let error = proxies(&[("HTTPS_PROXY", value)]).expect_err(value);
            assert!(error.contains("HTTPS_PROXY is no URL of an HTTP proxy"), "{value}: {error}");
            assert!(!error.contains("secret"), "{value}: {error}");
        }
        let client = |value: &'static str| {
            let variable = |name: &str| (name == AUTHORIZATION).then(|| value.to_owned());
            Client::new(&variable, Duration::from_secs(1), false)
        };
        let error = client("secret\nsecret").map(|_| ()).expect_err("two lines").to_string();
        assert!(
            error.contains("ROUNDHOUSE_FETCH_AUTHORIZATION has a character") && !error.contains("secret"),
            "{error}"
        );
        let client = client("Bearer secret\n").expect("a line break at the end is that of a file");
        assert!(client.has_secret());
    }
}
