//! Tokenizers, chat templates and grammar masks for C++, behind a plain C ABI (declared in src/text/internal/rust_abi.h).
//!
//! Rules of the ABI: strings go in as (pointer, length) and need not be UTF-8 (invalid sequences become U+FFFD); results come out as
//! `Bytes`, to be given back to `ingot_text_bytes_free`; every call that can fail takes `error`, fills it with a message and returns
//! null or false. No panic crosses: each entry runs under `guard`, which turns a panic into an error. Handles made by `*_new` may be
//! used from many threads at once, but a grammar, which is one generation's state and belongs to one thread at a time.

mod charsmap;
mod grammar;
mod jinja;
mod tokenizer;
mod unigram;

use std::borrow::Cow;
use std::panic::{catch_unwind, AssertUnwindSafe};

pub use grammar::{Grammar, GrammarFactory};
pub use jinja::ChatTemplate;
pub use tokenizer::Tok;

/// A byte array owned by Rust until `ingot_text_bytes_free`.
#[repr(C)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
    capacity: usize,
}

impl Bytes {
    fn from_vec(v: Vec<u8>) -> Bytes {
        let mut v = std::mem::ManuallyDrop::new(v);
        Bytes { data: v.as_mut_ptr(), size: v.len(), capacity: v.capacity() }
    }
}

/// # Safety
/// `p` must point to `n` readable bytes (or `n` is 0).
unsafe fn raw<'a>(p: *const u8, n: usize) -> &'a [u8] {
    if n == 0 {
        &[]
    } else {
        std::slice::from_raw_parts(p, n)
    }
}

unsafe fn text<'a>(p: *const u8, n: usize) -> Cow<'a, str> {
    String::from_utf8_lossy(raw(p, n))
}

fn panic_text(payload: Box<dyn std::any::Any + Send>) -> String {
    if let Some(s) = payload.downcast_ref::<&str>() {
        format!("internal error in the text library: {s}")
    } else if let Some(s) = payload.downcast_ref::<String>() {
        format!("internal error in the text library: {s}")
    } else {
        "internal error in the text library".to_string()
    }
}

/// Runs `f`; an error or a panic is written to `error` and `otherwise` is returned.
unsafe fn guard<T>(error: *mut Bytes, otherwise: T, f: impl FnOnce() -> Result<T, String>) -> T {
    let message = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(v)) => return v,
        Ok(Err(m)) => m,
        Err(payload) => panic_text(payload),
    };
    if !error.is_null() {
        error.write(Bytes::from_vec(message.into_bytes()));
    }
    otherwise
}

/// Keeps panics from printing: they arrive as errors. Called once by the C++ side.
#[no_mangle]
pub extern "C" fn ingot_text_init() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// # Safety
/// `b` came from this library and is freed once.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_bytes_free(b: Bytes) {
    if !b.data.is_null() {
        drop(Vec::from_raw_parts(b.data, b.size, b.capacity));
    }
}

// Tokenizer.

/// # Safety
/// Pointers are valid for their lengths.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_tokenizer_new(json: *const u8, n: usize, error: *mut Bytes) -> *mut Tok {
    guard(error, std::ptr::null_mut(), || Ok(Box::into_raw(Box::new(Tok::new(raw(json, n))?))))
}

/// # Safety
/// `t` came from `ingot_text_tokenizer_new` or is null.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_tokenizer_free(t: *mut Tok) {
    if !t.is_null() {
        guard(std::ptr::null_mut(), (), || {
            drop(Box::from_raw(t));
            Ok(())
        });
    }
}

/// The ids as little-endian u32 in `out`.
/// # Safety
/// Pointers are valid for their lengths.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_tokenizer_encode(
    t: *const Tok, s: *const u8, n: usize, add_special: bool, out: *mut Bytes, error: *mut Bytes,
) -> bool {
    guard(error, false, || {
        let ids = (*t).encode(&text(s, n), add_special)?;
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for id in ids {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        out.write(Bytes::from_vec(bytes));
        Ok(true)
    })
}

/// The whole vocabulary, packed (layout: `Tok::vocabulary`).
/// # Safety
/// Pointers are valid.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_tokenizer_vocabulary(t: *const Tok, out: *mut Bytes, error: *mut Bytes) -> bool {
    guard(error, false, || {
        out.write(Bytes::from_vec((*t).vocabulary()));
        Ok(true)
    })
}

// Chat template.

/// # Safety
/// Pointers are valid for their lengths.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_template_new(source: *const u8, n: usize, error: *mut Bytes) -> *mut ChatTemplate {
    guard(error, std::ptr::null_mut(), || Ok(Box::into_raw(Box::new(ChatTemplate::new(&text(source, n))?))))
}

/// # Safety
/// `t` came from `ingot_text_template_new` or is null.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_template_free(t: *mut ChatTemplate) {
    if !t.is_null() {
        guard(std::ptr::null_mut(), (), || {
            drop(Box::from_raw(t));
            Ok(())
        });
    }
}

/// Renders with the variables of the JSON object `context`. `strftime(format, n, out, capacity)` writes at most `capacity` bytes of the
/// formatted current time and returns how many.
/// # Safety
/// Pointers are valid for their lengths.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_template_render(
    t: *const ChatTemplate, context: *const u8, n: usize, strftime: jinja::Strftime, clock: *const std::ffi::c_void, out: *mut Bytes,
    error: *mut Bytes,
) -> bool {
    guard(error, false, || {
        let s = (*t).render(raw(context, n), jinja::Now { strftime, clock })?;
        out.write(Bytes::from_vec(s.into_bytes()));
        Ok(true)
    })
}

// Grammar.

/// `stop` lists the ids that end a generation.
/// # Safety
/// Pointers are valid for their lengths.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_factory_new(
    t: *const Tok, stop: *const u32, stops: usize, error: *mut Bytes,
) -> *mut GrammarFactory {
    guard(error, std::ptr::null_mut(), || {
        let stop: Vec<u32> = (0..stops).map(|i| *stop.add(i)).collect();
        Ok(Box::into_raw(Box::new(GrammarFactory::new(&*t, &stop)?)))
    })
}

/// # Safety
/// `f` came from `ingot_text_grammar_factory_new` or is null.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_factory_free(f: *mut GrammarFactory) {
    if !f.is_null() {
        guard(std::ptr::null_mut(), (), || {
            drop(Box::from_raw(f));
            Ok(())
        });
    }
}

/// `kind`: 0 JSON schema, 1 regular expression, 2 Lark grammar.
/// # Safety
/// Pointers are valid for their lengths.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_new(
    f: *const GrammarFactory, kind: i32, source: *const u8, n: usize, error: *mut Bytes,
) -> *mut Grammar {
    guard(error, std::ptr::null_mut(), || Ok(Box::into_raw(Box::new((*f).compile(kind, &text(source, n))?))))
}

/// # Safety
/// `g` came from this library or is null.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_free(g: *mut Grammar) {
    if !g.is_null() {
        guard(std::ptr::null_mut(), (), || {
            drop(Box::from_raw(g));
            Ok(())
        });
    }
}

/// # Safety
/// `g` is live.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_clone(g: *const Grammar, error: *mut Bytes) -> *mut Grammar {
    guard(error, std::ptr::null_mut(), || Ok(Box::into_raw(Box::new((*g).deep_clone()))))
}

/// Bit i % 32 of word i / 32 says whether token i may come next; words past the vocabulary are zeroed.
/// # Safety
/// `words` has room for `n` words.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_mask(g: *mut Grammar, words: *mut u32, n: usize, error: *mut Bytes) -> bool {
    guard(error, false, || {
        let out = if n == 0 { &mut [][..] } else { std::slice::from_raw_parts_mut(words, n) };
        (*g).mask(out)?;
        Ok(true)
    })
}

/// # Safety
/// `g` is live.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_commit(g: *mut Grammar, id: u32, error: *mut Bytes) -> bool {
    guard(error, false, || {
        (*g).commit(id)?;
        Ok(true)
    })
}

/// # Safety
/// `g` is live.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_rollback(g: *mut Grammar, tokens: usize, error: *mut Bytes) -> bool {
    guard(error, false, || {
        (*g).rollback(tokens)?;
        Ok(true)
    })
}

/// 0: goes on and may not end here; 1: may end here; 2: nothing but the end may follow; -1: error.
/// # Safety
/// `g` is live.
#[no_mangle]
pub unsafe extern "C" fn ingot_text_grammar_state(g: *mut Grammar, error: *mut Bytes) -> i32 {
    guard(error, -1, || (*g).state())
}
