//! The tokens that clients must send with a request, and the tenants that the tokens stand for. The program reads the
//! file again when it changes. [`crate::token_file`] knows the form of the file.

use crate::fair::{Tenant, TenantId};
use crate::meters::TenantMeters;
use crate::rate_limit::RateLimit;
use crate::token_file::{self, Malformed, TokenLine};
use arc_swap::ArcSwap;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use service::file_watcher;
use service::memory_budget::MemoryBudget;
use service::wire::{Code, RequestError};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;

/// The secrets, one of which a request must have as its bearer token (RFC 6750).
#[derive(Clone)]
pub struct Tokens {
    current: Arc<ArcSwap<TokenTable>>,
}

/// A tenant as the requests of its clients see it.
pub struct Account {
    /// The tenant's number and share in the queue.
    pub tenant: Tenant,
    /// Counts the tenant's requests by outcome.
    pub meters: TenantMeters,
    /// The memory that the tenant's requests may take.
    pub memory_budget: MemoryBudget,
    rate: Option<f64>,
    limit: Option<Arc<RateLimit>>,
}

/// The memory that the requests of all tenants share, and its part that is divided between them.
#[derive(Debug, Clone)]
pub struct TenantMemory {
    /// The memory of all tenants.
    pub budget: MemoryBudget,
    /// The number of its bytes that are divided between the tenants by their shares.
    pub bytes: usize,
}

/// A token, and the account of its tenant.
type SecretOfAccount = (Vec<u8>, Arc<Account>);

/// The contents of a token file.
struct TokenTable {
    /// The tokens by a hash with a secret key. The time of a look-up by the hash tells a client nothing about tokens,
    /// and does not grow with their number.
    by_hash: HashMap<u64, Vec<SecretOfAccount>>,
    hasher: RandomState,
    by_name: HashMap<String, Arc<Account>>,
    /// The number of the tenant that was named last. No number is used twice, so a request that waits keeps its tenant.
    last_id: u32,
}

/// The reason for which a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
    /// The text of the file is malformed.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Tokens {
    /// Reads the tokens from the file `path`, and reads them again whenever the file changes. Divides a part of `memory`
    /// between their tenants.
    ///
    /// # Errors
    /// If the file cannot be read, is malformed or holds no token.
    ///
    /// # Panics
    /// If there is no tokio runtime.
    pub fn open(path: PathBuf, memory: TenantMemory) -> Result<Self, Error> {
        let paths = [path];
        let contents = file_watcher::contents(&paths)?;
        let table = TokenTable::new(token_file::parse(&contents[0])?, &memory, None);
        let current = Arc::new(ArcSwap::from_pointee(table));
        let tokens = Self { current: current.clone() };
        tokio::spawn(file_watcher::follow(paths, contents, move |[content]| {
            let table = TokenTable::new(token_file::parse(content)?, &memory, Some(&current.load()));
            current.store(Arc::new(table));
            Ok::<_, Error>(())
        }));
        Ok(tokens)
    }

    /// The account of a request's token. The time of the check reveals only the length of a token.
    ///
    /// # Errors
    /// If the token is missing or wrong, the error has status 401.
    pub fn account(&self, headers: &HeaderMap) -> Result<Arc<Account>, RequestError> {
        self.account_of(headers.get(AUTHORIZATION).map(HeaderValue::as_bytes))
    }

    /// The account of the token in `value`, the value of the header `Authorization`; `None` if the header is absent.
    ///
    /// # Errors
    /// If the token is missing or wrong, the error has status 401.
    pub fn account_of(&self, value: Option<&[u8]>) -> Result<Arc<Account>, RequestError> {
        let refused = |reason: &str| {
            Err(RequestError::new(Code::Unauthorized, format!("{reason}; send Authorization: Bearer TOKEN")))
        };
        let Some(value) = value else { return refused("a token is required") };
        let (scheme, given) = value.split_at(value.len().min(b"Bearer ".len()));
        if !scheme.eq_ignore_ascii_case(b"Bearer ") {
            return refused("the Authorization header has no bearer token");
        }
        match self.current.load().account(given.trim_ascii()) {
            Some(account) => Ok(account.clone()),
            None => refused("the token is wrong"),
        }
    }
}

impl Account {
    /// Counts a request that arrives at `now` towards the tenant's rate.
    ///
    /// # Errors
    /// If the tenant's clients send more than its rate allows, the error has status 429.
    pub fn check_rate(&self, now: Instant) -> Result<(), RequestError> {
        let (Some(limit), Some(rate)) = (&self.limit, self.rate) else { return Ok(()) };
        limit.check(now).map_err(|after| {
            let seconds = after.as_secs_f64().ceil().max(1.0);
            let message = format!("this token allows {rate} requests per second; retry in {seconds:.0} s");
            RequestError::new(Code::RateLimited, message).retry_after(after)
        })
    }
}

impl TokenTable {
    /// The table of the tokens in `lines`. A tenant that `previous` has, too, keeps its number, and also the state of its
    /// rate limit if the rate is the same. Divides the part of `memory` anew.
    fn new(lines: Vec<TokenLine>, memory: &TenantMemory, previous: Option<&Self>) -> Self {
        let mut table = Self {
            by_hash: HashMap::new(),
            hasher: RandomState::new(),
            by_name: HashMap::new(),
            last_id: previous.map_or(0, |previous| previous.last_id),
        };
        for TokenLine { token, name, share, rate } in lines {
            let last_id = &mut table.last_id;
            let account = table.by_name.entry(name).or_insert_with_key(|name| {
                let before = previous.and_then(|previous| previous.by_name.get(name));
                let id = before.map_or_else(
                    || {
                        *last_id += 1;
                        TenantId(*last_id)
                    },
                    |before| before.tenant.id,
                );
                let kept = before.filter(|before| before.rate == rate).and_then(|before| before.limit.clone());
                let limit = kept.or_else(|| rate.map(|rate| Arc::new(RateLimit::new(rate, Instant::now()))));
                let memory_budget =
                    before.map_or_else(|| memory.budget.for_tenant(), |before| before.memory_budget.clone());
                let tenant = Tenant { id, share };
                Arc::new(Account { tenant, meters: TenantMeters::new(name), memory_budget, rate, limit })
            });
            let hash = table.hasher.hash_one(&token[..]);
            table.by_hash.entry(hash).or_default().push((token, account.clone()));
        }
        table.divide(memory, previous);
        table
    }

    /// Gives each tenant its part of `memory`, and those of `previous` that are gone none.
    fn divide(&self, memory: &TenantMemory, previous: Option<&Self>) {
        for (name, account) in previous.iter().flat_map(|previous| &previous.by_name) {
            if !self.by_name.contains_key(name) {
                account.memory_budget.set_own_part(0);
            }
        }
        let shares: u64 = self.by_name.values().map(|account| u64::from(account.tenant.share)).sum();
        for account in self.by_name.values() {
            let bytes = memory.bytes as u64 * u64::from(account.tenant.share) / shares;
            account.memory_budget.set_own_part(bytes as usize);
        }
    }

    /// The account of the token `given`; `None` if there is no such token.
    fn account(&self, given: &[u8]) -> Option<&Arc<Account>> {
        let candidates = self.by_hash.get(&self.hasher.hash_one(given))?;
        candidates.iter().find(|(token, _)| token.ct_eq(given).into()).map(|(_, account)| account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn memory() -> TenantMemory {
        TenantMemory { budget: MemoryBudget::new(2000), bytes: 1000 }
    }

    fn table(text: &str, previous: Option<&TokenTable>) -> TokenTable {
        TokenTable::new(token_file::parse(text.as_bytes()).expect("the file is valid"), &memory(), previous)
    }

    #[tokio::test]
    async fn only_a_whole_token_is_accepted() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(&file, "s3cret\nother name=x\n").expect("the temporary folder is writable");
        let tokens = Tokens::open(file.path().to_owned(), memory()).expect("the token file is valid");
        for (value, is_accepted) in [
            (None, false),
            (Some("Bearer s3cret"), true),
            (Some("bearer  s3cret"), true),
            (Some("Bearer other"), true),
            (Some("Bearer other name=x"), false),
            (Some("Bearer s3cre"), false),
            (Some("Bearer s3crets"), false),
            (Some("Bearer s3cret\tother"), false),
            (Some("Bearer "), false),
            (Some("Bearer"), false),
            (Some(""), false),
            (Some("Basic s3cret"), false),
            (Some("s3cret"), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|value| (AUTHORIZATION, HeaderValue::from_static(value))));
            assert_eq!(tokens.account(&headers).is_ok(), is_accepted, "{value:?}");
        }
    }

    #[test]
    fn a_tenant_keeps_its_number_and_its_rate_limit_when_its_token_is_replaced() {
        let first = table("a name=x rate=1/s\nb name=y", None);
        let find = |table: &TokenTable, token: &str| table.account(token.as_bytes()).cloned();
        let (x, y) = (find(&first, "a").expect("a token"), find(&first, "b").expect("a token"));
        assert_ne!(x.tenant.id, y.tenant.id);
        let now = Instant::now();
        assert!(x.check_rate(now).is_ok());
        assert_eq!(x.check_rate(now).map_err(|error| error.code), Err(Code::RateLimited));
        assert!(y.check_rate(now).is_ok());

        let second = table("a name=x rate=1/s share=1\nc name=x rate=1/s\nd name=z", Some(&first));
        for token in ["a", "c"] {
            let account = find(&second, token).expect("both tokens of a tenant are valid");
            assert_eq!(account.tenant, x.tenant);
            assert!(account.check_rate(now).is_err(), "the limit counts the requests with both tokens");
        }
        assert!(find(&second, "b").is_none());
        let z = find(&second, "d").expect("a token").tenant.id;
        assert!(z != x.tenant.id && z != y.tenant.id);

        let third = table("c name=x share=7 rate=2/s\ne name=y", Some(&second));
        let changed = find(&third, "c").expect("a token");
        assert_eq!((changed.tenant.id, changed.tenant.share), (x.tenant.id, 7));
        assert!(changed.check_rate(now).is_ok(), "another rate begins anew");
        assert_ne!(find(&third, "e").expect("a token").tenant.id, y.tenant.id, "no number is used twice");
    }

    #[test]
    fn the_tenants_of_the_present_file_divide_the_memory_by_their_shares() {
        let memory = memory();
        let table = |text: &str, previous: Option<&TokenTable>| {
            TokenTable::new(token_file::parse(text.as_bytes()).expect("the file is valid"), &memory, previous)
        };
        let left = |table: &TokenTable| {
            let mut left: Vec<_> =
                table.by_name.iter().map(|(name, account)| (name.clone(), account.memory_budget.left())).collect();
            left.sort();
            left
        };
        let first = table("a name=x share=3\nb name=x share=3\nc name=y", None);
        assert_eq!(left(&first), [("x".to_owned(), 1000 + 750), ("y".to_owned(), 1000 + 250)]);
        let second = table("c name=y\nd name=z", Some(&first));
        assert_eq!(left(&second), [("y".to_owned(), 1000 + 500), ("z".to_owned(), 1000 + 500)]);
        assert_eq!(memory.budget.left(), 1000);
    }
}
