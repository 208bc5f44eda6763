// Generates without Python: ./generate [SEQUENCES] [TOKENS] [SEED] [TEMPERATURE] [TOP_K] [TOP_P] [MIN_P] [LABEL]
// It prints one sequence of tokens per line, the same tokens as `s4gen sample` draws from this model with this seed.
// The plan is the file plan.bin beside the program. The engine is included as source, so there is nothing to link.

#include "engine.cpp"

#include <fstream>
#include <iterator>

// Number t of the random stream (seed, sequence), in [0, 1): Philox4x64-10 (Salmon et al. 2011). A block of four
// numbers is a function of its counter and the key, so any number can be had without those before it. Counters begin at
// 1, as in NumPy.
static double uniform(uint64_t seed, uint64_t sequence, uint64_t t) {
  uint64_t c[4] = {t / 4 + 1, 0, 0, 0}, k[2] = {seed, sequence};
  for (int round = 0; round < 10; ++round) {
    const unsigned __int128 a = (unsigned __int128)0xD2E7470EE14C6C93u * c[0], b = (unsigned __int128)0xCA5A826395121157u * c[2];
    const uint64_t next[4] = {uint64_t(b >> 64) ^ c[1] ^ k[0], uint64_t(b), uint64_t(a >> 64) ^ c[3] ^ k[1], uint64_t(a)};
    std::copy(next, next + 4, c);
    k[0] += 0x9E3779B97F4A7C15u, k[1] += 0xBB67AE8584CAA73Bu;
  }
  return (c[t % 4] >> 11) * (1.0 / 9007199254740992.0);  // the upper 53 bits, divided by 2^53
}

static int refuse(const char* why) {
  std::fprintf(stderr, "%s\nusage: ./generate [SEQUENCES] [TOKENS] [SEED] [TEMPERATURE] [TOP_K] [TOP_P] [MIN_P] [LABEL]\n", why);
  return 2;
}

int main(int argc, char** argv) try {
  // By the position of the argument: its default, and its bounds (LENGTH comes from the Makefile). A word that is not a
  // number inside of the bounds is refused. Doubles hold whole numbers up to 9e15 exactly.
  double value[9] = {0, 1, LENGTH, 0, 1, 0, 1, 0, 0};
  const double least[9] = {0, 1, 1, 0, 0, 0, 0, 0, 0}, most[9] = {0, 1e6, 1e9, 9e15, 1e9, 1e9, 1, 1, 1e9};
  if (argc > 9) return refuse("too many arguments");
  for (int i = 1; i < argc; ++i) {
    char* end = nullptr;
    value[i] = std::strtod(argv[i], &end);
    if (end == argv[i] || *end || !(value[i] >= least[i] && value[i] <= most[i])) return refuse("an argument is not a number, or is out of range");
  }
  auto number = [&](int i) { return value[i]; };
  const uint64_t rows = number(1), steps = number(2), seed = number(3);
  if (rows * steps > 1000000000) return refuse("more than 1000000000 tokens in all");
  const std::string folder = std::string(argv[0]).substr(0, std::string(argv[0]).find_last_of('/') + 1);
  std::ifstream file(folder + "plan.bin", std::ios::binary);
  if (!file) return refuse("plan.bin is not there: keep it beside the program");
  const std::vector<uint8_t> plan{std::istreambuf_iterator<char>(file), {}};
  char error[256] = "";
  Engine* engine = nullptr;
  Session* session = nullptr;
  std::vector<int64_t> token(rows), label(rows, number(8)), out(rows * steps);
  std::vector<double> u(rows * steps);
  for (uint64_t i = 0; i < rows * steps; ++i) u[i] = uniform(seed, i / steps, i % steps);
  Filters filters;  // by name, since a new filter may stand anywhere among them
  filters.temperature = number(4);
  filters.top_k = static_cast<int64_t>(number(5));
  filters.top_p = number(6);
  filters.min_p = number(7);
  bool failed = s4_open(plan.data(), plan.size(), &engine, error, sizeof error);
  if (!failed) std::fill(token.begin(), token.end(), engine->plan->header.bos);
  failed = failed || s4_begin(engine, rows, 0, 1, &session, error, sizeof error) ||
           (argc > 8 && s4_labels(session, label.data(), error, sizeof error)) ||
           s4_advance(session, token.data(), u.data(), steps, &filters, sizeof filters, out.data(), error, sizeof error);
  if (failed) return std::fprintf(stderr, "%s\n", error), 1;
  for (uint64_t i = 0; i < rows * steps; ++i) std::printf("%lld%c", (long long)out[i], (i + 1) % steps ? ' ' : '\n');
  if (std::fflush(stdout) || std::ferror(stdout)) return std::fprintf(stderr, "the output could not be written\n"), 1;
} catch (const std::exception& problem) {
  return std::fprintf(stderr, "%s\n", problem.what()), 1;
}
