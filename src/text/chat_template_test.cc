// Templates in the styles of the published model families, rendered as Transformers' own Jinja2 environment rendered them
// (tools/fixtures/text/make_templates.py), byte for byte.
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>
#include <map>

#include "base/files.h"

namespace ingot::text {
namespace {

const std::string kFolder = cat(INGOT_SOURCE_DIR, "/tests/fixtures/text/templates");

TokenizerInfo info_with(std::string source) {
  TokenizerInfo info;
  info.chat_template = std::move(source);
  info.bos_token = "<s>";
  info.eos_token = "</s>";
  return info;
}

std::string render(std::string source, const ChatRequest& request) {
  auto t = ChatTemplate::create(info_with(std::move(source)));
  if (!t.ok()) return "parse error: " + t.error().message();
  auto out = (*t)->render(request);
  return out.ok() ? *out : "error: " + out.error().message();
}

TEST(ChatTemplate, EqualsTransformers) {
  setenv("TZ", "UTC", 1);
  tzset();
  const std::string file = join_path(kFolder, "expected.json");
  const Json expected = parse_json(read_file(file).value(), file).value();
  std::map<std::string, std::shared_ptr<const ChatTemplate>> templates;
  int compared = 0;
  for (const Json& c : expected["cases"]) {
    const auto name = c["template"].get<std::string>();
    auto& t = templates[name];
    if (!t) {
      auto made = ChatTemplate::create(info_with(read_file(join_path(kFolder, name + ".jinja")).value()));
      ASSERT_TRUE(made.ok()) << name << ": " << made.error().message();
      t = *made;
    }
    ChatRequest request{.messages = expected["chats"][c["chat"].get<size_t>()], .extra = c["extra"]};
    if (c["tools"].get<bool>()) request.tools = expected["tools"];
    request.add_generation_prompt = c["add_generation_prompt"].get<bool>();
    request.unix_seconds = expected["now"].get<int64_t>();
    auto out = t->render(request);
    const std::string what = cat(name, ", chat ", c["chat"].get<int>(), ", tools ", c["tools"].get<bool>());
    if (c.contains("error")) {
      EXPECT_FALSE(out.ok()) << what << ": want the error '" << c["error"].get<std::string>() << "', got '" << (out.ok() ? *out : "") << "'";
    } else {
      ASSERT_TRUE(out.ok()) << what << ": " << out.error().message();
      EXPECT_EQ(*out, c["want"].get<std::string>()) << what;
    }
    ++compared;
  }
  EXPECT_GE(templates.size(), 14u);
  EXPECT_GE(compared, 400);
}

// As Jinja2 takes them: what stands in raw blocks and comments, numbers that are none.
TEST(ChatTemplate, ReadsSignsThatCloseNothing) {
  EXPECT_EQ(render("{% raw %}{%}{% x {% endraw %}{{ '%s' % 'a' }}", {}), "{%}{% x a");
  EXPECT_EQ(render("{#}{{ '%s' % x }}#}y", {}), "y");
  EXPECT_EQ(render("{{ '%e %g' % ('inf'|float, '-inf'|float) }}", {}), "inf -inf");
  EXPECT_EQ(render("{{ '%s %s' % ('%d' % 1, '%s' % ('a' ~ '%s' % 2,)) }} {{ 'ab'[::-1][::-1] }}", {}), "1 a2 ab");
}

// Chains run to their end however long they are; what nests is refused with its line, not with the end of the process.
TEST(ChatTemplate, FollowsChainsAndRefusesDepth) {
  const auto repeat = [](std::string_view text, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += text;
    return out;
  };
  for (const auto& [link, want] : {std::pair{" + 1", "20001"}, {" and 1", "1"}, {"|string", "1"}, {" if 1 else 0", "1"}, {" ~ ''", "1"}})
    EXPECT_EQ(render("{{ 1" + repeat(link, 20000) + " }}", {}), want) << link;
  EXPECT_EQ(render("{% if x %}" + repeat("{% elif x %}", 20000) + "{% else %}e{% endif %}", {}), "e");
  EXPECT_EQ(render("{{ " + repeat("not ", 100001) + "1 }}", {}), "False");
  EXPECT_EQ(render("{{ " + repeat("- ", 100001) + "1 }}", {}), "-1");
  for (const auto& [open, close] : {std::pair{"(", ")"}, {"[", "]"}, {"{1: ", "}"}, {"x[", "]"}, {"x(", ")"}, {"1|d(", ")"}})
    EXPECT_EQ(render("\n{{ " + repeat(open, 50000) + "1" + repeat(close, 50000) + " }}", {}),
              "parse error: template 'default': chat template: line 2: brackets and statements in each other; at most 100 levels") << open;
  EXPECT_NE(render(repeat("{% if 1 %}", 50000), {}).find("at most 100 levels"), std::string::npos);
  EXPECT_NE(render(std::string(2 << 20, 'x'), {}).find("2097152 bytes; at most 1048576"), std::string::npos);
}

// One rendering has so many steps, bytes and levels, whatever forms a template puts together.
TEST(ChatTemplate, EndsWhateverATemplateDoes) {
  const auto grown = [](std::string_view start, std::string_view step, std::string_view end) {
    return render(cat("{% set ns = namespace(x=", start, ", y=", start, ") %}\n{% for i in range(60) %}\n{% set ns.x = ", step, " %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}\n", end), {});
  };
  // Texts and lists that double.
  for (const char* longer : {"ns.x + ns.x", "ns.x * 9", "[ns.x, ns.x]|join(ns.x)", "ns.x|replace('a', ns.x)", "'%s%s' % (ns.x, ns.x)"})
    EXPECT_EQ(grown("'aa'", longer, ""), "error: chat template: line 3: a text is longer than 67108864 bytes") << longer;
  EXPECT_EQ(grown("[1]", "ns.x + ns.x", ""), "error: chat template: line 3: the template's values hold more than 268435456 bytes");
  EXPECT_EQ(grown("[]", "ns.x + ['a' * 60000000]", ""), "error: chat template: line 3: the template's values hold more than 268435456 bytes");
  // Lists that hold themselves twice, 60 levels deep.
  for (const char* walk : {"ns.x == ns.y", "[ns.y, ns.x]|sort", "ns.x"})
    EXPECT_EQ(grown("[1]", "[ns.x, ns.x]", cat("{{ ", walk, " }}")), "error: chat template: line 4: the template takes more than 20000000 steps") << walk;
  EXPECT_EQ(grown("[1]", "[ns.x, ns.x]", "{{ ns.x in 'text' }}"), "error: chat template: line 4: 'in <string>' requires string as left operand, not list");
  EXPECT_EQ(grown("[1]", "[ns.x, ns.x]", "{{ {ns.x: 1}|length }}"), "error: chat template: line 4: unhashable type: 'list'");
  EXPECT_EQ(grown("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1}|length }}"), "error: chat template: line 4: unhashable type: 'tuple'");
  EXPECT_EQ(render("{% set ns = namespace(x=0) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}", {}),
            "error: chat template: line 1: a value is nested too deep; at most 100 levels");
  // What would hold itself.
  for (const char* held : {"ns", "[ns]", "{'a': ns}", "namespace(a=ns)", "cycler(ns)", "(1, ns)"})
    EXPECT_NE(render(cat("{% set ns = namespace() %}\n{% set ns.a = ", held, " %}{{ {1: ns} }}"), {}).find("error: chat template: line 2: a Namespace can be put into no list, dict or namespace"),
              std::string::npos) << held;
  EXPECT_EQ(render("{% set ns = namespace() %}{% macro m() %}{{ ns }}{% endmacro %}{% set ns.m = m %}{{ m() }}", {}), "<Namespace {'m': <Macro 'm'>}>");
  // Loops of cheap forms over large values.
  for (const char* body : {"{% for j in range(100000) %}{% endfor %}", "{% set y = x[1:] %}", "{% set y = x[::-1] %}", "{% set y = x.strip('ab') %}", "{% set y = range(100000)[0:] %}"})
    EXPECT_EQ(render(cat("{% set x = 'a' * 10000000 %}{% for i in range(100000) %}", body, "{% endfor %}"), {}),
              "error: chat template: line 1: the template takes more than 20000000 steps") << body;
  for (const char* recursion : {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"})
    EXPECT_EQ(render(recursion, {}), "error: chat template: line 1: maximum recursion depth exceeded");
  // Texts that are written once and taken often, printed or kept.
  for (const char* form : {"{% for i in range(100000) %}", "{% set x %}{% for i in range(100000) %}"})
    EXPECT_EQ(render(cat(form, std::string(900000, 'z'), "{% endfor %}", form[3] == 's' ? "{% endset %}" : ""), {}), "error: chat template: line 1: a text is longer than 67108864 bytes");
  EXPECT_NE(render("{{ range(10 ** 9)|length }}", {}).find("Range too big"), std::string::npos);
  EXPECT_NE(render("{{ 9 ** 9 ** 9 }}", {}).find("a number is too large"), std::string::npos);
  for (const char* wide : {"'a\nb'|indent(100000000)", "'{:>1000000000}'.format('a')", "'{0:{1}}'.format('a', 99999)", "'{:.99999f}'.format(1)", "'%5000d'|format(1)", "'a'.center(9999)", "'a'.zfill(9999)"})
    EXPECT_NE(render(cat("{{ ", wide, " }}"), {}).find("at most 4096"), std::string::npos) << wide;
  for (const char* expanded : {"('\t' * 10000000).expandtabs(4096)", "('%(a)4096d' * 100000)|format({'a': 1})", "('{0:4096}' * 100000).format(1)", "'a' * 10 ** 12"})
    EXPECT_NE(render(cat("{{ (", expanded, ")|length }}"), {}).find("longer than"), std::string::npos) << expanded;
  // Macros that hold the scope of the one before, a hundred thousand of them.
  EXPECT_EQ(render("{% set ns = namespace(m=none) %}{% for i in range(100000) %}{% set before = ns.m %}{% macro m() %}{{ before }}{% endmacro %}{% set ns.m = m %}{% endfor %}x", {}), "x");
  EXPECT_EQ(render("{{ '{{\"n\": 99999}} {:>4} {a[b:99999]}'.format('x', a={'b:99999': 2}) }}", {}), "{\"n\": 99999}    x 2");
}

// Work that grows with the length of names and with how many a call passes.
TEST(ChatTemplate, ChargesForLongNames) {
  const std::string name(800000, 'x');
  for (const std::string& body : {cat("{{ ", name, " }}"), cat("{{ i.", name, " }}"), cat("{% set ", name, " = 1 %}"), cat("{% macro ", name, "() %}{% endmacro %}"),
                                  cat("{{ dict(", name, "=1)|length }}")}) {
    const std::string out = render(cat("{% for i in [{}] * 100000 %}", body, "{% endfor %}"), {});
    EXPECT_EQ(out, "error: chat template: line 1: the template takes more than 20000000 steps") << body.substr(0, 20);
  }
  const ChatRequest request{.extra = {{"key", std::string(1000000, 'k')}, {"d", {{"a", 1}}}}};
  EXPECT_EQ(render("{% for i in range(100000) %}{{ d[key] }}{% endfor %}", request), "error: chat template: line 1: the template takes more than 20000000 steps");
  Json many = Json::object();
  for (int i = 0; i < 20000; ++i) many[cat("p", i)] = i;
  EXPECT_EQ(render("{{ ('{p19999}' * 100000).format(**d) }}", {.extra = {{"d", many}}}), "error: chat template: line 1: the template takes more than 20000000 steps");
}

// As Jinja2 renders them: what `safe` and `escape` give escapes what is added to it, undefined values in formats and dicts, floats to their last bit.
TEST(ChatTemplate, EqualsJinjaInRareForms) {
  const ChatRequest request{.extra = {{"s", "<b> & 'c'"}, {"d", {{"a", "<"}}}, {"f", 237964627.09189138}, {"g", 3.899367208872129e-09}}};
  for (const auto& [source, want] : {
           std::pair{"{{ \"'\"|safe + s + '<'|safe }}", "'&lt;b&gt; &amp; &#39;c&#39;<"},
           {"{{ '<x>' + d|tojson|safe }}", "&lt;x&gt;{\"a\": \"<\"}"},
           {"{{ '<x>' ~ d|tojson|safe ~ s }}", "<x>{\"a\": \"<\"}<b> & 'c'"},
           {"{{ s|e|e }}|{{ s|forceescape|forceescape }}", "&lt;b&gt; &amp; &#39;c&#39;|&amp;lt;b&amp;gt; &amp;amp; &amp;#39;c&amp;#39;"},
           {"{{ (s|safe)[1:] + '<' }} {{ s|safe|upper + '<' }} {{ (s|safe).split()[0] + '<' }}", "b> & 'c'&lt; <B> & 'C'&lt; <b>&lt;"},
           {"{{ ('%s<%d'|safe) % (s, 2) }} {{ ('{}'|safe).format('<') }} {{ (','|e).join(['<', '>'|safe]) }}", "&lt;b&gt; &amp; &#39;c&#39;<2 &lt; &lt;,>"},
           {"{{ s|safe|replace('b', '<') + '<' }} {{ ['a'|safe, 'b'] }} {{ s|e is escaped }} {{ ('<'|safe) * 2 + '<' }}", "<<> & 'c'< [Markup('a'), 'b'] True <<&lt;"},
           {"{{ '%s' % x }}|{{ 'a' % x }}|{{ x in d }}|{{ d.get(x) }}|{{ (1, 2) in d }}", "|a|False|None|False"},
           {"{% generation %}{% set y = 1 %}{{ y }}{% endgeneration %}[{{ y }}]", "1[]"},
           {"{{ ['\u3000\u200d\U000e0020é\U0001f642'] }}", "['\\u3000\\u200d\\U000e0020\u00e9\U0001f642']"},
           {"{{ f }} {{ g|tojson }}", "237964627.09189138 3.899367208872129e-09"}})
    EXPECT_EQ(render(source, request), want) << source;
  EXPECT_NE(render("{% for i in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}", {}).find("'break' outside loop"), std::string::npos);
}

// What Jinja2's macros have beside their parameters, methods behind attributes, and the names that its sandbox refuses.
TEST(ChatTemplate, TakesJinjasMacrosAndMethods) {
  EXPECT_EQ(render("{% macro m(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }} {{ m(1, 3, 4, 5) }} {{ m(1, c=6) }} {{ m(*[7, 8], **{'d': 9}) }}", {}),
            "12(){} 13(4, 5){} 12(){'c': 6} 78(){'d': 9}");
  EXPECT_EQ(render("{% macro m(n) %}<{{ caller(n) }}>{% endmacro %}{% call(v) m(3) %}v{{ v }}{% endcall %}", {}), "<v3>");
  EXPECT_EQ(render("{% macro m(a) %}{% endmacro %}\n{{ m(1, 2) }}", {}), "error: chat template: line 2: macro 'm' takes not more than 1 argument(s)");
  EXPECT_EQ(render("{% set d = {'items': 1, 'x': 2} %}{{ d['items'] }}{{ d.items()|length }}{{ d.x }}{{ d.items is callable }}", {}), "122True");
  EXPECT_EQ(render("{% set l = [1] %}\n{% do l.append(2) %}", {}), "error: chat template: line 2: access to attribute 'append' of 'list' object is unsafe.");
  EXPECT_EQ(render("a\n{{ x.y\n.z }}", {}), "error: chat template: line 2: 'x' is undefined");
}

TEST(ChatTemplate, SaysWhatTheTemplateRaised) {
  EXPECT_EQ(render("\n{{ raise_exception('roles must alternate') }}", {}), "error: chat template: line 2: roles must alternate");
  for (const char* cut : {"rsplit", "partition", "rpartition"})
    EXPECT_NE(render(cat("{{ 'a'.", cut, "('') }}"), {}).find("empty separator"), std::string::npos) << cut;
  EXPECT_NE(render("{% if %}", {}).find("parse error: template 'default': chat template: "), std::string::npos);
  EXPECT_NE(render("x", {.messages = "text"}).find("want an array"), std::string::npos);
}

TEST(ChatTemplate, FallsBackByFamily) {
  const Json messages = Json::parse(R"([{"role":"system","content":"S"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},
                                        {"role":"user","content":"c"}])");
  auto fallback = [&](std::string family) {
    TokenizerInfo info = info_with("");
    info.family = std::move(family);
    return ChatTemplate::create(info).value()->render({.messages = messages}).value();
  };
  EXPECT_EQ(fallback("llama2"), "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\na [/INST] b </s><s>[INST] c [/INST]");
  EXPECT_EQ(fallback("chatml"),
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n<|im_start|>user\nc<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(fallback("baichuan"), "S<reserved_106>a<reserved_107>b<reserved_106>c<reserved_107>");
  EXPECT_EQ(fallback("yuan"), "S<n>a<n>b<n>c<sep>");
  EXPECT_EQ(ChatTemplate::create(info_with("")).error().code(), Code::kUnsupported);
}

TEST(ChatTemplate, ContinuesTheFinalMessage) {
  const std::string source = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
  const Json messages = Json::parse(R"([{"role":"user","content":"a"},{"role":"assistant","content":" The answer "}])");
  EXPECT_EQ(render(source, {.messages = messages, .continue_final_message = true}), "<user>a</user><assistant>The answer");
  EXPECT_EQ(render(source, {.messages = messages}), "<user>a</user><assistant>The answer</assistant><assistant>");
  EXPECT_NE(render(source, {.continue_final_message = true}).find("no text to continue"), std::string::npos);
}

TEST(ChatTemplate, ExtraVariablesOverrule) {
  EXPECT_EQ(render("{{ a }}{{ bos_token }}{{ add_generation_prompt }}", {.extra = Json::parse(R"({"a": 1, "bos_token": "B"})")}), "1BTrue");
}

}  // namespace
}  // namespace ingot::text
