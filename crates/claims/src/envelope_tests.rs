//! Which envelopes stand, and which single change makes each fall.

use super::*;
use base64::engine::general_purpose;
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use serde_json::json;

const STATEMENT: &str = r#"{"object":"??>>~~","predicate":"p","subject":"s"}"#;

fn signer(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::new(key.verifying_key().as_bytes()).unwrap()
}

fn sign(key: &SigningKey, payload: &str) -> Signature {
    let sig = key.sign(&pae(PAYLOAD_TYPE, payload.as_bytes())).to_bytes();
    Signature { keyid: public(key).agent().to_string(), sig }
}

fn envelope(payload: &str, signers: &[u8]) -> Envelope {
    Envelope {
        payload_type: PAYLOAD_TYPE.into(),
        payload: payload.into(),
        signatures: signers.iter().map(|seed| sign(&signer(*seed), payload)).collect(),
    }
}

/// A registry that knows the signers of seeds 1 and 2.
fn registered(agent: &AgentId) -> Option<PublicKey> {
    [1, 2].map(|seed| public(&signer(seed))).into_iter().find(|key| key.agent() == *agent)
}

fn to_json(envelope: &Envelope, engine: &GeneralPurpose) -> Value {
    let signature = |s: &Signature| json!({"keyid": s.keyid, "sig": engine.encode(s.sig)});
    json!({
        "payloadType": envelope.payload_type,
        "payload": engine.encode(&envelope.payload),
        "signatures": envelope.signatures.iter().map(signature).collect::<Vec<_>>(),
    })
}

#[test]
fn a_signed_statement_gives_its_agents_and_the_id_it_would_have_had_plain() {
    let (statement, agents) = envelope(STATEMENT, &[2, 1, 2]).verify(registered).unwrap();
    assert_eq!(statement.id(), Statement::parse(STATEMENT.as_bytes()).unwrap().id());
    assert_eq!(agents, [2, 1].map(|seed| public(&signer(seed)).agent()));
}

#[test]
fn an_envelope_reads_the_same_in_every_base64_and_with_fields_of_a_later_day() {
    let whole = envelope(STATEMENT, &[1]);
    for engine in [
        general_purpose::STANDARD,
        general_purpose::STANDARD_NO_PAD,
        general_purpose::URL_SAFE,
        general_purpose::URL_SAFE_NO_PAD,
    ] {
        let mut json = to_json(&whole, &engine);
        json["extension"] = json!({"kind": "later"});
        assert_eq!(Envelope::parse(json.to_string().as_bytes()), Ok(whole.clone()));
    }
}

#[test]
fn any_change_to_what_was_signed_or_who_signed_is_refused() {
    let agent = public(&signer(1)).agent();
    let bad = Err(EnvelopeError::BadSignature { n: 0, agent: agent.to_string() });
    let good = envelope(STATEMENT, &[1]);

    let mut other_payload = good.clone();
    other_payload.payload = STATEMENT.replace("\"s\"", "\"t\"").into_bytes();
    assert_eq!(other_payload.verify(registered), bad);

    for bit in [0, 255, 256, 511] {
        let mut flipped = good.clone();
        flipped.signatures[0].sig[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(flipped.verify(registered), bad, "bit {bit}");
    }

    let mut lying = envelope(STATEMENT, &[2]);
    lying.signatures[0].keyid = agent.to_string();
    assert_eq!(lying.verify(registered), bad);

    // A registry that hands out one agent's key under another's name lends no name.
    assert_eq!(lying.verify(|_| Some(public(&signer(2)))), bad);
}

#[test]
fn one_bad_or_unknown_signature_among_good_ones_spoils_the_envelope() {
    let mut second_bad = envelope(STATEMENT, &[1, 2]);
    second_bad.signatures[1].sig = second_bad.signatures[0].sig;
    let agent = public(&signer(2)).agent().to_string();
    assert_eq!(second_bad.verify(registered), Err(EnvelopeError::BadSignature { n: 1, agent }));

    let keyid = public(&signer(3)).agent().to_string();
    let unknown = envelope(STATEMENT, &[1, 3]).verify(registered);
    assert_eq!(unknown, Err(EnvelopeError::UnknownAgent { n: 1, keyid }));

    for keyid in ["", "me", "key:project-x"] {
        let mut nameless = envelope(STATEMENT, &[1]);
        nameless.signatures[0].keyid = keyid.into();
        let unknown = EnvelopeError::UnknownAgent { n: 0, keyid: keyid.into() };
        assert_eq!(nameless.verify(registered), Err(unknown));
    }
}

#[test]
fn only_the_canonical_form_of_a_statement_is_taken_as_payload() {
    let spaced = envelope(&STATEMENT.replace(':', ": "), &[1]);
    assert_eq!(spaced.verify(registered), Err(EnvelopeError::NotCanonical));
    let empty = envelope("{}", &[1]).verify(registered);
    assert_eq!(empty.unwrap_err().to_string(), "`subject` is missing");
    let mut other = envelope(STATEMENT, &[1]);
    other.payload_type = "application/vnd.in-toto+json".into();
    let got = other.payload_type.clone();
    assert_eq!(other.verify(registered), Err(EnvelopeError::PayloadType { got }));
}

#[test]
fn a_shape_that_is_no_envelope_is_refused_by_field() {
    let whole = to_json(&envelope(STATEMENT, &[1]), &general_purpose::STANDARD);
    let sig = whole["signatures"][0]["sig"].clone();
    let with = |field: &str, value: Value| {
        let mut changed = whole.clone();
        changed[field] = value;
        Envelope::from_value(&changed).map_err(|e| e.to_string())
    };
    let table = [
        ("payload", json!(1), "`payload` must be a string"),
        ("payload", json!("a*b="), "`payload` must be base64"),
        ("payload", json!("-_+/"), "`payload` must be base64"),
        ("payload", json!("eB=="), "`payload` must be base64"),
        ("payloadType", json!(null), "`payloadType` must be a string"),
        ("signatures", json!([]), "`signatures` must be a list of 1 to 16"),
        ("signatures", json!({}), "`signatures` must be a list of 1 to 16"),
        (
            "signatures",
            json!(vec![json!({"sig": sig}); 17]),
            "`signatures` must be a list of 1 to 16",
        ),
        ("signatures", json!([1]), "a signature must be an object"),
        ("signatures", json!([{}]), "`sig` must be a string"),
        ("signatures", json!([{"sig": "AAAA"}]), "`sig` must be base64 of 64 bytes"),
        ("signatures", json!([{"sig": sig, "keyid": 1}]), "`keyid` must be a string"),
    ];
    for (field, value, detail) in table {
        let sentence = format!("the envelope can't be read: {detail}");
        assert_eq!(with(field, value), Err(sentence));
    }
    assert!(with("signatures", json!([{"sig": sig}])).is_ok());
    let twice = Envelope::parse(br#"{"payload":"","payload":""}"#).unwrap_err();
    assert!(twice.to_string().contains("given twice"));
    let long = Envelope::parse(&vec![b' '; ENVELOPE_BYTES_MAX + 1]).unwrap_err();
    assert!(long.to_string().contains("longer than 131072 bytes"));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
        let _ = Envelope::parse(&bytes);
    }
}
