// What the machine allows, on as many threads as the first argument says: bytes read from memory a second, and int8
// multiplications and additions a second by VNNI instructions (0 where the processor has none).
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

enum { BYTES = 256 << 20, PASSES = 4, CHAINS = 16, ROUNDS = 4000000 };

static double read_bytes(int threads) {
    double best = 0;
    uint64_t *arrays[threads];
    volatile uint64_t kept = 0;
    for (int i = 0; i < threads; i++) {
        arrays[i] = aligned_alloc(64, BYTES);
        memset(arrays[i], 1, BYTES);
    }
    for (int pass = 0; pass < PASSES; pass++) {
        double started = omp_get_wtime();
        uint64_t sum = 0;
#pragma omp parallel num_threads(threads) reduction(+ : sum)
        {
            const uint64_t *array = arrays[omp_get_thread_num()];
            for (size_t i = 0; i < BYTES / sizeof(uint64_t); i++) sum += array[i];
        }
        kept += sum;
        double rate = (double)BYTES * threads / (omp_get_wtime() - started);
        if (rate > best) best = rate;
    }
    for (int i = 0; i < threads; i++) free(arrays[i]);
    return best;
}

static double int8_operations(int threads) {
#if defined(__AVX512VNNI__)
    int kept = 0;
    double started = omp_get_wtime();
#pragma omp parallel num_threads(threads) reduction(+ : kept)
    {
        __m512i sums[CHAINS], left = _mm512_set1_epi8(3), right = _mm512_set1_epi8(2);
        for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_setzero_si512();
        for (int round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 16
            for (int i = 0; i < CHAINS; i++) sums[i] = _mm512_dpbusd_epi32(sums[i], left, right);
            __asm__ volatile("" : "+v"(left), "+v"(right));
        }
        for (int i = 0; i < CHAINS; i++) kept += _mm512_reduce_add_epi32(sums[i]);
    }
    double seconds = omp_get_wtime() - started;
    // 64 products and as many sums an instruction
    return kept ? 128.0 * CHAINS * ROUNDS * threads / seconds : 0;
#else
    (void)threads;
    return 0;
#endif
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    printf("%.0f %.0f\n", read_bytes(threads), int8_operations(threads));
    return 0;
}
