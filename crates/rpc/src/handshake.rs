//! Who is there: a mutual challenge and response before the first message.
//!
//! ```text
//! dialler                                           listener
//!   hello: versions, role, node, wanted, cluster, life, nonce ─►   checks all but the secret
//!   ◄─ challenge: version, node, cluster, life, nonce              checks all but the secret
//!   proof: HMAC(key, "dialler" ‖ transcript) per key ─►            needs one key in common
//!   ◄─ welcome: HMAC(that key, "listener" ‖ transcript)            the listener knows it too
//!      or double: the newer life, HMAC(that key, "double" ‖ transcript ‖ it)
//! ```
//!
//! The hello says the newest and the oldest version that the dialler speaks; the listener takes the
//! newest that both do, and the challenge says which. Without one in common both sides say so.
//!
//! A double is a process under a node id of which a newer life is known here (`lives`). Being told
//! so ends a node, so it is told only under the secret: whoever can merely answer a dial must not
//! be able to stop one.
//!
//! The key is HKDF-SHA-256 of the cluster secret with the info text
//! `stemedb peer v1`; the transcript is hello and challenge as they were sent,
//! so both node ids, both cluster ids, both nonces, the version, the role and
//! the wanted node are bound by both proofs. During a rotation each side holds
//! several secrets: the dialler proves each of them, the listener answers
//! under the first it knows. The dialler proves first, so a stranger who dials
//! learns nothing to guess secrets against.
//!
//! Either side ends it with a refusal that names the mismatch, and both report
//! the same one. Hello, challenge and refusal begin with tag and version in
//! every version there will be, so that two builds can tell each other apart.
//!
//! Without a secret a fixed, public key stands in (insecure mode): the
//! handshake then tells nodes and clusters apart and keeps nobody out.
//!
//! Left out: encryption and per-message authentication. Whoever can sit on
//! the path between two peers reads every value, and may alter or take over a
//! connection after its handshake; a refusal can be forged by him as well.
//! Until TLS comes, the peers' network must be trusted.

use hkdf::Hkdf;
use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use stemedb_types::{ClusterId, DecodeError, Decoder, Encoder, NodeId};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::lives::Life;
use crate::message::PeerIdentity;
use crate::mismatch::{Mismatch, REFUSED, Versions, read_refusal};

/// What this build speaks; there is only one version so far.
pub const VERSIONS: Versions = Versions { oldest: 1, newest: 1 };
/// Most cluster secrets accepted at once; a rotation needs two.
pub const SECRETS_MAX: usize = 4;

const KEY_INFO: &[u8] = b"stemedb peer v1";
/// What stands in for the secret in insecure mode. Public on purpose.
const INSECURE_SECRET: &[u8] = b"stemedb without a cluster secret";

const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const PROOF: u8 = 3;
const WELCOME: u8 = 4;
// 5 is a refusal.
const DOUBLE: u8 = 6;

/// 32 random bytes, used once.
pub(crate) type Nonce = [u8; 32];
type Digest32 = [u8; 32];
/// A key of 32 bytes, padded with zeros to the block of SHA-256 as HMAC itself would.
type KeyBlock = Zeroizing<[u8; 64]>;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The messages of one direction between two peers.
    Main = 1,
    /// Its large messages.
    Bulk = 2,
    /// One question.
    Once = 3,
    /// One snapshot.
    Snapshot = 4,
}

/// How a handshake ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// We found it, and the other side is to be told.
    Found(Mismatch),
    /// The other side told us.
    Told(Mismatch),
    /// The listener told the dialler under the secret: it is no stranger's word.
    Proven(Mismatch),
}

impl Ended {
    /// What both sides know now.
    pub(crate) fn mismatch(&self) -> &Mismatch {
        match self {
            Ended::Found(mismatch) | Ended::Told(mismatch) | Ended::Proven(mismatch) => mismatch,
        }
    }
}

impl<E: Into<Mismatch>> From<E> for Ended {
    fn from(error: E) -> Self {
        Ended::Found(error.into())
    }
}

/// The keys in force, derived once at the start. Never empty.
pub(crate) struct Keys(Vec<KeyBlock>);

impl Keys {
    /// Derives a key from each secret; without any, the public one of insecure mode.
    pub(crate) fn new<S: AsRef<[u8]>>(secrets: &[S]) -> Self {
        if secrets.is_empty() {
            return Keys(vec![derive(INSECURE_SECRET)]);
        }
        Keys(secrets.iter().map(|secret| derive(secret.as_ref())).collect())
    }
}

fn derive(secret: &[u8]) -> KeyBlock {
    let mut key = Zeroizing::new([0; 64]);
    let (output, _padding) = key.split_at_mut(32);
    // HKDF refuses only outputs beyond 255 hashes; this is one.
    let expanded = Hkdf::<Sha256>::new(None, secret).expand(KEY_INFO, output);
    debug_assert!(expanded.is_ok(), "32 bytes are within HKDF's reach");
    key
}

fn prove(key: &KeyBlock, side: &[u8], hello: &[u8], challenge: &[u8]) -> Digest32 {
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&(**key).into());
    // Lengths in front, so that no two transcripts read as the same bytes.
    for part in [side, hello, challenge] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

const DIALLER: &[u8] = b"dialler";
const LISTENER: &[u8] = b"listener";
const DOUBLE_OF: &[u8] = b"double";

/// Proves a verdict: that `newer` is a newer life of the dialling node.
fn prove_double(key: &KeyBlock, hello: &[u8], challenge: &[u8], newer: Life) -> Digest32 {
    let mut side = Encoder::new();
    side.raw(DOUBLE_OF);
    put_life(&mut side, newer);
    prove(key, side.as_slice(), hello, challenge)
}

/// That `newer` is a newer life of a node than the one that is refused.
pub(crate) fn duplicate(node: NodeId, newer: Life) -> Mismatch {
    Mismatch::Duplicate { node, newer: newer.incarnation }
}

fn put_life(out: &mut Encoder, life: Life) {
    out.u64(life.incarnation);
    out.u128(life.instance);
}

fn take_life(from: &mut Decoder<'_>) -> Result<Life, DecodeError> {
    Ok(Life { incarnation: from.u64()?, instance: from.u128()? })
}

/// Opens a frame of the handshake: the tag wanted, or what came in its place.
fn open(head: &[u8], wanted: u8) -> Result<Decoder<'_>, Ended> {
    let mut from = Decoder::new(head);
    match from.u8()? {
        tag if tag == wanted => Ok(from),
        REFUSED => Err(Ended::Told(read_refusal(from)?)),
        tag => Err(Ended::Found(Mismatch::Malformed(format!("step {tag} came for step {wanted}")))),
    }
}

fn check_clusters(dialler: Option<ClusterId>, listener: Option<ClusterId>) -> Result<(), Mismatch> {
    match (dialler, listener) {
        (Some(dialler), Some(listener)) if dialler != listener => {
            Err(Mismatch::Cluster { dialler, listener })
        }
        _ => Ok(()),
    }
}

/// The dialling side, before the challenge.
pub(crate) struct Dialler {
    me: PeerIdentity,
    versions: Versions,
    wanted: Option<NodeId>,
    hello: Vec<u8>,
}

impl Dialler {
    /// Prepares the hello to `wanted`, or to whoever is there.
    pub(crate) fn new(
        me: PeerIdentity,
        life: Life,
        wanted: Option<NodeId>,
        role: Role,
        nonce: Nonce,
    ) -> Self {
        Self::speaking(VERSIONS, me, life, wanted, role, nonce)
    }

    fn speaking(
        versions: Versions,
        me: PeerIdentity,
        life: Life,
        wanted: Option<NodeId>,
        role: Role,
        nonce: Nonce,
    ) -> Self {
        let mut hello = Encoder::new();
        hello.u8(HELLO);
        hello.u8(versions.newest);
        hello.u8(versions.oldest);
        hello.u8(role as u8);
        hello.u64(me.node.0);
        hello.option(wanted, |out, node| out.u64(node.0));
        hello.option(me.cluster, |out, cluster| out.u128(cluster.0));
        put_life(&mut hello, life);
        hello.raw(&nonce);
        Self { me, versions, wanted, hello: hello.into_vec() }
    }

    /// Head of the first frame to send.
    pub(crate) fn hello(&self) -> Vec<u8> {
        self.hello.clone()
    }

    /// Takes the challenge; returns the proof to send and what awaits the welcome.
    pub(crate) fn challenged(
        self,
        keys: &Keys,
        head: &[u8],
    ) -> Result<(Vec<u8>, AwaitWelcome), Ended> {
        let mut from = open(head, CHALLENGE)?;
        let version = Versions::only(from.u8()?);
        if self.versions.newest_common(version).is_none() {
            return Err(Mismatch::Version { dialler: self.versions, listener: version }.into());
        }
        let peer = PeerIdentity {
            node: NodeId(from.u64()?),
            cluster: from.option(|from| from.u128().map(ClusterId))?,
        };
        let life = take_life(&mut from)?;
        from.raw(32)?;
        from.finish()?;
        self.check(peer)?;
        let mut proof = Encoder::new();
        proof.u8(PROOF);
        proof.varint(keys.0.len() as u64);
        for key in &keys.0 {
            proof.raw(&prove(key, DIALLER, &self.hello, head));
        }
        let (me, hello, challenge) = (self.me.node, self.hello, head.to_vec());
        Ok((proof.into_vec(), AwaitWelcome { me, peer, life, hello, challenge }))
    }

    fn check(&self, peer: PeerIdentity) -> Result<(), Mismatch> {
        if peer.node == self.me.node {
            return Err(Mismatch::SelfDial);
        }
        if let Some(wanted) = self.wanted.filter(|wanted| *wanted != peer.node) {
            return Err(Mismatch::Node { wanted, found: peer.node });
        }
        check_clusters(self.me.cluster, peer.cluster)
    }
}

/// The dialling side, before the welcome.
pub(crate) struct AwaitWelcome {
    me: NodeId,
    peer: PeerIdentity,
    life: Life,
    hello: Vec<u8>,
    challenge: Vec<u8>,
}

impl AwaitWelcome {
    /// Who is dialled; not proven yet.
    pub(crate) fn peer(&self) -> NodeId {
        self.peer.node
    }

    /// Takes the welcome: the peer is who it says, in this life.
    pub(crate) fn welcomed(self, keys: &Keys, head: &[u8]) -> Result<(PeerIdentity, Life), Ended> {
        if head.first() == Some(&DOUBLE) {
            return Err(self.told_double(keys, head));
        }
        let mut from = open(head, WELCOME)?;
        let given = from.raw(32)?;
        from.finish()?;
        let known =
            self.is_proof(keys, given, |key| prove(key, LISTENER, &self.hello, &self.challenge));
        if known { Ok((self.peer, self.life)) } else { Err(Mismatch::Secret.into()) }
    }

    fn told_double(&self, keys: &Keys, head: &[u8]) -> Ended {
        let read = || {
            let mut from = open(head, DOUBLE)?;
            let (newer, given) = (take_life(&mut from)?, from.raw(32)?);
            from.finish()?;
            let known = self.is_proof(keys, given, |key| {
                prove_double(key, &self.hello, &self.challenge, newer)
            });
            if known { Ok(newer) } else { Err(Ended::from(Mismatch::Secret)) }
        };
        match read() {
            Ok(newer) => Ended::Proven(duplicate(self.me, newer)),
            Err(ended) => ended,
        }
    }

    fn is_proof(&self, keys: &Keys, given: &[u8], wanted: impl Fn(&KeyBlock) -> Digest32) -> bool {
        keys.0.iter().any(|key| bool::from(wanted(key).as_slice().ct_eq(given)))
    }
}

/// The listening side, before the hello.
pub(crate) struct Listener {
    me: PeerIdentity,
    life: Life,
    versions: Versions,
    nonce: Nonce,
}

impl Listener {
    /// Prepares to answer whoever dialled.
    pub(crate) fn new(me: PeerIdentity, life: Life, nonce: Nonce) -> Self {
        Self { me, life, versions: VERSIONS, nonce }
    }

    /// Takes the hello; returns the challenge to send and what awaits the proof.
    pub(crate) fn greeted(self, head: &[u8]) -> Result<(Vec<u8>, AwaitProof), Ended> {
        let mut from = open(head, HELLO)?;
        let newest = from.u8()?;
        let dialler = Versions { newest, oldest: from.u8()? };
        let Some(version) = self.versions.newest_common(dialler) else {
            return Err(Mismatch::Version { dialler, listener: self.versions }.into());
        };
        let role = read_role(&mut from)?;
        let node = NodeId(from.u64()?);
        let wanted = from.option(|from| from.u64().map(NodeId))?;
        let cluster = from.option(|from| from.u128().map(ClusterId))?;
        let life = take_life(&mut from)?;
        from.raw(32)?;
        from.finish()?;
        let peer = PeerIdentity { node, cluster };
        self.check(peer, wanted)?;
        let challenge = self.challenge(version);
        let hello = head.to_vec();
        let next = AwaitProof { peer, life, role, hello, challenge: challenge.clone() };
        Ok((challenge, next))
    }

    fn check(&self, peer: PeerIdentity, wanted: Option<NodeId>) -> Result<(), Mismatch> {
        if peer.node == self.me.node {
            return Err(Mismatch::SelfDial);
        }
        if let Some(wanted) = wanted.filter(|wanted| *wanted != self.me.node) {
            return Err(Mismatch::Node { wanted, found: self.me.node });
        }
        check_clusters(peer.cluster, self.me.cluster)
    }

    fn challenge(&self, version: u8) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u8(CHALLENGE);
        out.u8(version);
        out.u64(self.me.node.0);
        out.option(self.me.cluster, |out, cluster| out.u128(cluster.0));
        put_life(&mut out, self.life);
        out.raw(&self.nonce);
        out.into_vec()
    }
}

fn read_role(from: &mut Decoder<'_>) -> Result<Role, DecodeError> {
    match from.u8()? {
        1 => Ok(Role::Main),
        2 => Ok(Role::Bulk),
        3 => Ok(Role::Once),
        4 => Ok(Role::Snapshot),
        got => Err(DecodeError::Value { what: "a role", got: u64::from(got) }),
    }
}

/// The listening side, before the proof.
#[derive(Debug)]
pub(crate) struct AwaitProof {
    peer: PeerIdentity,
    life: Life,
    role: Role,
    hello: Vec<u8>,
    challenge: Vec<u8>,
}

impl AwaitProof {
    /// Takes the proof: who dialled is who it says.
    pub(crate) fn proven<'k>(self, keys: &'k Keys, head: &[u8]) -> Result<Proven<'k>, Ended> {
        let mut from = open(head, PROOF)?;
        let count = from.length(32)?;
        if count > SECRETS_MAX {
            let what = "the number of proofs";
            return Err(DecodeError::Value { what, got: count as u64 }.into());
        }
        let given = (0..count).map(|_| from.raw(32)).collect::<Result<Vec<_>, _>>()?;
        from.finish()?;
        let matches = |key: &&KeyBlock| {
            let wanted = prove(key, DIALLER, &self.hello, &self.challenge);
            given.iter().any(|given| bool::from(wanted.as_slice().ct_eq(given)))
        };
        let Some(key) = keys.0.iter().find(matches) else { return Err(Mismatch::Secret.into()) };
        Ok(Proven { shaken: self, key })
    }
}

/// The listening side, once it knows who dialled and has only to say its own.
pub(crate) struct Proven<'k> {
    shaken: AwaitProof,
    key: &'k KeyBlock,
}

impl Proven<'_> {
    /// Who dialled, in which of its lives.
    pub(crate) fn peer(&self) -> (PeerIdentity, Life) {
        (self.shaken.peer, self.shaken.life)
    }

    /// What the connection is for.
    pub(crate) fn role(&self) -> Role {
        self.shaken.role
    }

    /// The last step if it may come in.
    pub(crate) fn welcome(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u8(WELCOME);
        out.raw(&prove(self.key, LISTENER, &self.shaken.hello, &self.shaken.challenge));
        out.into_vec()
    }

    /// The last step if a newer life of that node is here.
    pub(crate) fn double(&self, newer: Life) -> Vec<u8> {
        let AwaitProof { hello, challenge, .. } = &self.shaken;
        let mut out = Encoder::new();
        out.u8(DOUBLE);
        put_life(&mut out, newer);
        out.raw(&prove_double(self.key, hello, challenge, newer));
        out.into_vec()
    }
}

#[cfg(test)]
mod tests;
