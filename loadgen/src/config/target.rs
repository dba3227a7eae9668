//! Flags that choose the server, how requests are sent to it, and how its answers are judged.

use crate::answer::expected_value::ExpectedValue;
use crate::answer::{AnswerReader, TargetKind};
use crate::config::positive;
use crate::connection::addresses::Override;
use crate::connection::destination::Protocol;
use crate::connection_limit::ConnectionLimit;
use crate::payload::template::BodyTemplate;
use crate::payload::tensor::Tensor;
use crate::payload::{BodyEncoder, BodyFormat};
use crate::tls::TlsSettings;
use anyhow::{Context, Result, ensure};
use hyper::Uri;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Default of `--connections`, as far as the limit of open files permits it. More requests in flight do not make a
/// server faster.
const DEFAULT_CONNECTIONS: usize = 4096;

/// Longest file of `--body-template`, in bytes.
const MAX_TEMPLATE_BYTES: u64 = 1 << 20;

/// Flags of `loadgen run` that choose the server.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// URL to which images are posted, with http:// or https://; loadgen connects to it directly, never through a proxy
    #[arg(long, default_value = "http://127.0.0.1:5052/predict")]
    pub url: Uri,
    /// Form of the server's answers
    #[arg(long, value_name = "KIND", value_enum, default_value_t = TargetKind::Roundhouse)]
    pub target_kind: TargetKind,
    /// Value that an answer with a status 2xx must have in its JSON to be right, such as '/result/label={{label}}'. The
    /// pointer is a JSON Pointer; the value is JSON, or else a string; {{label}} stands for the image's label. An
    /// answer without the place is a failure. Can be given several times, and decides instead of --target-kind
    #[arg(long, value_name = "POINTER=VALUE")]
    pub expect_json: Vec<ExpectedValue>,
    /// Tensor that a request of the Open Inference Protocol has: image:BYTES:1 (the default) carries the image file,
    /// and input:FP32:1,3,224,224 (or FP64) random numbers from 0 to 1
    #[arg(long, value_name = "NAME:DATATYPE:SHAPE")]
    pub tensor: Option<Tensor>,
    /// File with the text of each request's body, in which {{image_base64}}, {{label}} and {{index}} are replaced
    #[arg(long, value_name = "FILE", conflicts_with_all = ["body_format", "tensor"])]
    pub body_template: Option<PathBuf>,
    /// Media type of the body that --body-template makes
    #[arg(long, value_name = "TYPE", default_value = "application/json", requires = "body_template")]
    pub content_type: HeaderValue,
    /// Header that is sent with each request, such as 'X-Tenant: a'; can be given several times. It replaces loadgen's
    /// header of the same name, also Content-Type
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub header: Vec<(HeaderName, HeaderValue)>,
    /// File with a token, which is sent as 'Authorization: Bearer TOKEN'. A changed file is read again within a second
    #[arg(long, value_name = "FILE")]
    pub bearer_token_file: Option<PathBuf>,
    /// File with the certificates, in PEM, of the authorities that https:// trusts, in place of the system's
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca: Option<PathBuf>,
    /// Accept every certificate of the server
    #[arg(long)]
    pub insecure: bool,
    /// File with the client's certificate chain, in PEM
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_cert: Option<PathBuf>,
    /// File with the private key of --client-cert, in PEM
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub client_key: Option<PathBuf>,
    /// Send over HTTP/2: with https:// by ALPN, with http:// by prior knowledge
    #[arg(long)]
    pub http2: bool,
    /// Number of requests at a time on each connection of HTTP/2, or fewer if the server permits fewer. A further
    /// connection is opened when all have that many
    #[arg(long, default_value_t = 100, requires = "http2", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub streams: u32,
    /// Addresses to connect to in place of a lookup of the URL's host, such as example.com:443:127.0.0.1 or
    /// example.com:443:[::1]; can be given several times
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    pub resolve: Vec<Override>,
    /// Time after its scheduled send time at which a request counts as failed
    #[arg(long, default_value = "30s", value_parser = positive)]
    pub timeout: Duration,
    /// Timeout to send with each request, in the header x-request-timeout-ms
    #[arg(long, value_parser = whole_milliseconds)]
    pub budget: Option<Duration>,
    /// Number of predictions to request in each answer
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Largest number of open connections; 4096 by default, or fewer if the system permits fewer. A request that finds
    /// all connections in use is sent late
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: Option<u32>,
}

impl Args {
    /// The largest number of open connections: `--connections`, or its default.
    ///
    /// # Errors
    /// If the limit of open files permits fewer connections than `--connections`.
    pub fn connections(&self) -> Result<usize> {
        let permitted = service::descriptors::for_connections();
        let Some(connections) = self.connections else { return Ok(permitted.min(DEFAULT_CONNECTIONS)) };
        ensure!(
            connections as usize <= permitted,
            "--connections ({connections}) exceeds the {permitted} connections that the limit of open files permits; \
             lower it, or raise the limit (ulimit -Hn)"
        );
        Ok(connections as usize)
    }

    /// The limit of open files, if it is the reason why [`Args::connections`] is less than its default.
    pub fn connection_limit(&self) -> Option<ConnectionLimit> {
        let connections = service::descriptors::for_connections();
        let is_bounded = self.connections.is_none() && connections < DEFAULT_CONNECTIONS;
        is_bounded.then(|| ConnectionLimit { open_files: service::descriptors::limit(), connections })
    }

    /// The version of HTTP.
    pub fn protocol(&self) -> Protocol {
        if self.http2 { Protocol::Http2(self.streams as usize) } else { Protocol::Http1 }
    }

    /// The choices about TLS.
    pub fn tls(&self) -> TlsSettings {
        TlsSettings {
            authorities: self.ca.clone(),
            is_insecure: self.insecure,
            client: self.client_cert.clone().zip(self.client_key.clone()),
        }
    }

    /// Whether a connection to the server needs a file that a flag names.
    pub fn has_files(&self) -> bool {
        [&self.bearer_token_file, &self.ca, &self.client_cert, &self.client_key].into_iter().any(Option::is_some)
    }

    /// How answers are read and judged.
    pub fn answers(&self) -> AnswerReader {
        AnswerReader { kind: self.target_kind, expected: self.expect_json.clone() }
    }

    /// What makes the bodies of requests. `format` is the value of `--form`. Its default follows from `--target-kind`
    /// and `--tensor`.
    ///
    /// # Errors
    /// If the template cannot be read or is malformed, or `--tensor` does not fit `--form`.
    pub fn body_encoder(&self, format: Option<BodyFormat>) -> Result<BodyEncoder> {
        if let Some(path) = &self.body_template {
            let media_type = self.content_type.to_str().unwrap_or_default().to_ascii_lowercase();
            let text = read_template(path)?;
            let template = BodyTemplate::parse(&text, media_type.contains("json"))
                .with_context(|| format!("--body-template ({})", path.display()))?;
            return Ok(BodyEncoder::Template(template, self.content_type.clone()));
        }
        let is_open_inference = self.target_kind == TargetKind::Oip || self.tensor.is_some();
        let format = format.unwrap_or(if is_open_inference { BodyFormat::OipJson } else { BodyFormat::Raw });
        let encoder = match format {
            BodyFormat::Raw => BodyEncoder::Raw,
            BodyFormat::Multipart => BodyEncoder::Multipart,
            BodyFormat::Json => BodyEncoder::Json,
            BodyFormat::OipJson | BodyFormat::OipBinary => {
                let tensor = self.tensor.clone().unwrap_or_default();
                return Ok(BodyEncoder::OpenInference(tensor, format == BodyFormat::OipBinary));
            }
            BodyFormat::Template => unreachable!("--form cannot select the template"),
        };
        ensure!(self.tensor.is_none(), "--tensor needs --form oip-json or oip-binary");
        Ok(encoder)
    }

    /// A line for the user about a header that replaces the one which the body needs; `None` without such a header.
    pub fn note(&self) -> Option<String> {
        let (_, value) = self.header.iter().find(|(name, _)| *name == CONTENT_TYPE)?;
        let value = String::from_utf8_lossy(value.as_bytes());
        Some(format!("--header sets Content-Type to {value:?}, in place of the one that belongs to the body"))
    }

    /// Why the flags exclude each other, where clap cannot know it; `None` if they do not.
    pub fn conflict(&self) -> Option<&'static str> {
        let has_authorization = self.header.iter().any(|(name, _)| *name == AUTHORIZATION);
        (has_authorization && self.bearer_token_file.is_some())
            .then_some("--bearer-token-file and --header 'Authorization: …' exclude each other; leave one of them out")
    }
}

/// Reads the file of `--body-template`.
fn read_template(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_TEMPLATE_BYTES + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("--body-template: read {}", path.display()))?;
    let name = path.display();
    ensure!(bytes.len() as u64 <= MAX_TEMPLATE_BYTES, "--body-template ({name}): the file is longer than 1 MiB");
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|&&byte| byte == b'\n').count() + 1;
        anyhow::anyhow!("--body-template ({name}): line {line} is not UTF-8 text")
    })
}

/// Parses a duration of whole milliseconds, since the header has no fractions.
fn whole_milliseconds(text: &str) -> Result<Duration, String> {
    let duration = positive(text)?;
    if duration.subsec_nanos().is_multiple_of(1_000_000) {
        Ok(duration)
    } else {
        Err("must be whole milliseconds, such as 250ms".into())
    }
}

/// Parses a header, `Name: value`.
fn header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("a header needs a colon, as in 'Name: value'")?;
    let name = name.trim().parse().context("the name of the header is not valid in HTTP")?;
    let mut value: HeaderValue = value.trim().parse().context("the value of the header is not valid in HTTP")?;
    value.set_sensitive(true);
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cli, Command};

    #[test]
    fn a_header_is_a_name_and_a_value() {
        let (name, value) = header("authorization:  Bearer a:b ").expect("good");
        assert_eq!((name.as_str(), value.to_str().expect("plain")), ("authorization", "Bearer a:b"));
        for bad in ["", "x", "a b: c", ": x", "a: b\nc"] {
            assert!(header(bad).is_err(), "{bad:?}");
        }
    }

    /// The name of the body's format that these flags choose.
    fn format(flags: &[&str]) -> Result<BodyFormat, String> {
        let load = ["loadgen", "run", "--rate=1", "--duration=1s"];
        let cli = Cli::read(load.iter().chain(flags).map(Into::into)).map_err(|error| error.to_string())?;
        let Command::Run(args) = cli.command else { return Err("another command".into()) };
        let encoder = args.target.body_encoder(args.images.body_format);
        encoder.map(|encoder| encoder.format()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_form_of_the_body_follows_from_the_kind_of_the_target() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            format!("--body-template={}", path.display())
        };
        let template = file("good.json", b"{\"image\": \"{{image_base64}}\"}");
        for (flags, expected) in [
            (&[][..], BodyFormat::Raw),
            (&["--target-kind=torchserve"], BodyFormat::Raw),
            (&["--target-kind=oip"], BodyFormat::OipJson),
            (&["--target-kind=oip", "--form=oip-binary"], BodyFormat::OipBinary),
            (&["--target-kind=oip", "--form=raw"], BodyFormat::Raw),
            (&["--tensor=x:FP32:2"], BodyFormat::OipJson),
            (&["--target-kind=oip", &template], BodyFormat::Template),
        ] {
            assert_eq!(format(flags), Ok(expected), "{flags:?}");
        }
        let unknown = file("unknown.json", b"{\n \"a\": \"{{picture}}\"}");
        let binary = file("binary", b"a\n\xff");
        let long = file("long", &[b' '; (1 << 20) + 1]);
        for (flags, word) in [
            (&["--form=raw", "--tensor=x:FP32:2"][..], "--form oip-json or oip-binary"),
            (&["--form=template"], "oip-binary"),
            (&["--form=raw", &template], "--body-template"),
            (&["--tensor=x:FP32:2", &template], "--body-template"),
            (&["--content-type=text/plain"], "--body-template"),
            (&[&unknown], "line 2, column 8"),
            (&[&binary], "line 2 is not UTF-8"),
            (&[&long], "1 MiB"),
            (&["--body-template=no/such/file"], "no/such/file"),
            (&["--client-cert=a.pem"], "--client-key"),
            (&["--client-key=a.pem"], "--client-cert"),
            (&["--ca=a.pem", "--insecure"], "--insecure"),
            (&["--streams=2"], "--http2"),
            (&["--http2", "--streams=0"], "--streams"),
            (&["--resolve=a:80"], "HOST:PORT:ADDRESS"),
            (&["--expect-json=a"], "POINTER=VALUE"),
            (&["--target-kind=triton"], "oip"),
            (&["--bearer-token-file=a", "--header=authorization: b"], "exclude each other"),
        ] {
            let error = format(flags).expect_err("refused");
            assert!(error.contains(word), "{flags:?}: {error}");
        }
    }
}
