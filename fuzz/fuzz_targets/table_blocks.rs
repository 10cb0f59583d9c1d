//! See `stemedb_fuzz::table_blocks`. Built without a fuzzer, it replays its corpus.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| stemedb_fuzz::table_blocks(input));

#[cfg(not(fuzzing))]
fn main() -> std::io::Result<()> {
    let inputs = stemedb_fuzz::replay("table_blocks", stemedb_fuzz::table_blocks)?;
    println!("table_blocks: {inputs} inputs");
    Ok(())
}
