// Generates without Python: ./generate [SEQUENCES] [TOKENS] [SEED] [TEMPERATURE] [TOP_K] [TOP_P] [MIN_P] [LABEL]
// One sequence of tokens per line; the same tokens as `s4gen sample` draws from this model with this seed.

#include "engine.cpp"

#include <fstream>
#include <iterator>

// Philox4x64-10 (Salmon et al. 2011): number t of the stream with this key, in [0, 1).
static double uniform(uint64_t seed, uint64_t sequence, uint64_t t) {
  uint64_t c[4] = {t / 4 + 1, 0, 0, 0}, k[2] = {seed, sequence};
  for (int round = 0; round < 10; ++round) {
    const unsigned __int128 a = (unsigned __int128)0xD2E7470EE14C6C93u * c[0], b = (unsigned __int128)0xCA5A826395121157u * c[2];
    const uint64_t next[4] = {uint64_t(b >> 64) ^ c[1] ^ k[0], uint64_t(b), uint64_t(a >> 64) ^ c[3] ^ k[1], uint64_t(a)};
    std::copy(next, next + 4, c);
    k[0] += 0x9E3779B97F4A7C15u, k[1] += 0xBB67AE8584CAA73Bu;
  }
  return (c[t % 4] >> 11) * (1.0 / 9007199254740992.0);
}

int main(int argc, char** argv) {
  auto number = [&](int i, double otherwise) { return argc > i ? std::atof(argv[i]) : otherwise; };
  const uint64_t rows = number(1, 1), steps = number(2, LENGTH), seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0;
  std::ifstream file("plan.bin", std::ios::binary);
  const std::vector<uint8_t> plan{std::istreambuf_iterator<char>(file), {}};
  char error[256] = "";
  Engine* engine = nullptr;
  Session* session = nullptr;
  std::vector<int64_t> token(rows), label(rows, number(8, 0)), out(rows * steps);
  std::vector<double> u(rows * steps);
  for (uint64_t i = 0; i < rows * steps; ++i) u[i] = uniform(seed, i / steps, i % steps);
  bool failed = s4_open(plan.data(), plan.size(), &engine, error, sizeof error);
  if (!failed) std::fill(token.begin(), token.end(), engine->plan->header.bos);
  failed = failed || s4_begin(engine, rows, 0, 1, &session, error, sizeof error) ||
           (argc > 8 && s4_labels(session, label.data(), error, sizeof error)) ||
           s4_advance(session, token.data(), u.data(), steps, number(4, 1), number(5, 0), number(6, 1), number(7, 0),
                      out.data(), error, sizeof error);
  if (failed) return std::fprintf(stderr, "%s\n", error), 1;
  for (uint64_t i = 0; i < rows * steps; ++i) std::printf("%lld%c", (long long)out[i], (i + 1) % steps ? ' ' : '\n');
}
