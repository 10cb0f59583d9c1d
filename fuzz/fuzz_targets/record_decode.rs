//! See `stemedb_fuzz::record_decode`. Built without a fuzzer, it replays its corpus.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| stemedb_fuzz::record_decode(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    let inputs = stemedb_fuzz::replay("record_decode", stemedb_fuzz::record_decode)?;
    println!("record_decode: {inputs} inputs");
    Ok(())
}
